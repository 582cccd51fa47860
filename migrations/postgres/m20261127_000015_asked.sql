-- A run that another replica ended is left within two seconds: its owner asks for such runs between its heartbeats.

-- Nearly always empty. It reads the whole table, to which nobody writes meanwhile. An operator may have built it beforehand,
-- while all goes on.
create index if not exists run_asked on run (owner, boot) where state = 'running' and cancel_requested;

-- Runs of a process whose end somebody asked for.
create function asked_runs(me text, my_boot uuid) returns table (run_id uuid)
    language sql stable security definer
begin atomic
    select r.run_id from run r
    where r.state = 'running' and r.cancel_requested and r.owner = me and r.boot = my_boot;
end;

select hand_to_claimer('asked_runs(text, uuid)');
