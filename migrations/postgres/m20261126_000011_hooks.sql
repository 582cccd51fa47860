-- Runs that begin later, runs that end when nobody reads them, and who is told of the end of a run.

-- The functions below belong to a role that an owner without rights to make roles is a member of only for migrations.
do $$
declare
    me constant text := current_user;
begin
    if not (select rolsuper from pg_roles where rolname = me) then
        begin
            execute format('grant graphloom_claimer to %I', me);
        exception when insufficient_privilege then
            if not pg_has_role(me, 'graphloom_claimer', 'member') then
                raise insufficient_privilege using message = format(
                    '`%1$s` is no member of `graphloom_claimer`. '
                    'An administrator runs: grant graphloom_app, graphloom_claimer to %1$I', me);
            end if;
        end;
    end if;
    execute format('grant create on schema %I to graphloom_claimer', current_schema());
end $$;

-- It has not begun, and has no place among the runs of its thread before it is due.
alter table run add column delayed boolean not null default false;
-- Until then it counts as read; null: it goes on without readers.
alter table run add column read_until timestamptz;
-- Where its end is told, and each pause.
alter table run add column webhook text;
create index run_delayed on run (available_at) where state = 'queued' and delayed;
create index run_unread on run (read_until) where read_until is not null and state in ('queued', 'running');

-- The table has never held a row. What is told, one row for each end or pause of a run; with `available_at` also as the
-- end of the lease of whoever is telling it.
alter table outbox add column state text not null default 'queued' check (state in ('queued', 'delivered', 'failed'));
-- What went wrong the last time.
alter table outbox add column error text;
alter table outbox add column finished_at timestamptz;
create index outbox_due on outbox (available_at) where state = 'queued';
create index outbox_over on outbox (state, finished_at) where finished_at is not null;

grant select (delayed, read_until), update (delayed, ord) on run to graphloom_claimer;
grant select (tenant, outbox_id, run_id, attempts, state, available_at, created_at, finished_at),
      update (attempts, available_at), delete
    on outbox to graphloom_claimer;
create policy looks on outbox for select to graphloom_claimer using (true);
create policy claims on outbox for update to graphloom_claimer using (state = 'queued');
create policy forgets_old on outbox for delete to graphloom_claimer using (finished_at is not null);

-- As before, by the order of acceptance: ids are made before that.
create or replace function list_runs(states text[], of_tenant text, before uuid, of_thread uuid, most bigint)
    returns table (tenant text, run_id uuid) language sql stable security definer
begin atomic
    select r.tenant, r.run_id from run r
    where (states = '{}' or (r.state = 'dead' and 'dead' = any(states)) or (r.state = 'queued' and 'queued' = any(states))
        or (r.state = 'running' and 'running' = any(states))
        or (r.state = 'interrupted' and 'interrupted' = any(states)) or r.state = any(states))
      and (of_tenant is null or r.tenant = of_tenant)
      and (before is null or r.ord < (select b.ord from run b where b.run_id = before))
      and (of_thread is null or r.thread_id = of_thread)
    order by r.ord desc limit most;
end;

-- As before, and what is delayed takes its place behind the other runs of its thread when it is due: one of a thread at a
-- time, so that several do so in the order of their times. A run that waits for another reason keeps its place.
create or replace function claim_runs(me text, my_boot uuid, lease_ms bigint, most bigint, engine bigint)
    returns table (tenant text, run_id uuid, fence bigint, crashed boolean, ord bigint)
    language sql security definer
begin atomic
    update run r set delayed = false, ord = default
    from (
        select d.tenant, d.run_id from run d
        where d.state = 'queued' and d.delayed and d.available_at <= now()
          and not exists (select 1 from run b where b.tenant = d.tenant and b.thread_id = d.thread_id
            and b.state = 'queued' and b.delayed and (b.available_at, b.ord) < (d.available_at, d.ord))
        order by d.available_at limit most for update of d skip locked) due
    where r.tenant = due.tenant and r.run_id = due.run_id;
    with lost as materialized (
        select r.tenant, r.run_id, true as crashed, r.ord from run r
        where r.state = 'running' and (r.lease_until < now() or (r.owner = me and r.boot <> my_boot))
          and r.min_engine <= engine
        order by r.ord limit most for update skip locked),
    ready as materialized (
        select r.tenant, r.run_id, false as crashed, r.ord from run r
        where r.state = 'queued' and not r.delayed and r.available_at <= now() and r.min_engine <= engine
          and not exists (select 1 from run a where a.tenant = r.tenant and a.thread_id = r.thread_id
            and a.state in ('running', 'interrupted'))
          and not exists (select 1 from run a where a.tenant = r.tenant and a.thread_id = r.thread_id
            and a.state = 'queued' and not a.delayed and a.ord < r.ord)
        order by r.ord limit most for update of r skip locked),
    due as materialized (
        select r.tenant, r.run_id, false as crashed, r.ord from run r
        where r.state = 'interrupted' and r.wake_at <= now() and r.min_engine <= engine
        order by r.ord limit most for update skip locked),
    pick as materialized (
        select * from lost union all select * from due union all select * from ready limit most)
    update run r set state = 'running', fence = r.fence + 1, crashes = r.crashes + p.crashed::int,
        owner = me, boot = my_boot, lease_until = now() + lease_ms * interval '1 millisecond'
    from pick p where r.tenant = p.tenant and r.run_id = p.run_id
    returning r.tenant, r.run_id, r.fence, p.crashed, r.ord;
end;

drop function count_runs();
create function count_runs()
    returns table (queued bigint, delayed bigint, running bigint, active bigint, dead bigint)
    language sql stable security definer
begin atomic
    select (select count(*) from run where state = 'queued' and not delayed),
           (select count(*) from run where state = 'queued' and delayed),
           (select count(*) from run where state = 'running'),
           (select count(*) from run where state in ('running', 'interrupted')),
           (select count(*) from run where state = 'dead');
end;

-- Runs that were to end when nobody reads them, and that nobody reads.
create function unread_runs(most bigint) returns table (tenant text, run_id uuid) language sql stable security definer
begin atomic
    select r.tenant, r.run_id from run r
    where r.state in ('queued', 'running') and r.read_until < now() and not r.cancel_requested
    order by r.read_until limit most;
end;

create function claim_outbox(lease_ms bigint, most bigint)
    returns table (tenant text, outbox_id uuid, attempts bigint) language sql security definer
begin atomic
    with due as materialized (
        select o.tenant, o.outbox_id from outbox o
        where o.state = 'queued' and o.available_at <= now()
        order by o.available_at limit most for update skip locked)
    update outbox o set attempts = o.attempts + 1, available_at = now() + lease_ms * interval '1 millisecond'
    from due d where o.tenant = d.tenant and o.outbox_id = d.outbox_id
    returning o.tenant, o.outbox_id, o.attempts;
end;

create function list_outbox(states text[], of_tenant text, wanted uuid, most bigint)
    returns table (tenant text, outbox_id uuid) language sql stable security definer
begin atomic
    select o.tenant, o.outbox_id from outbox o
    where (states = '{}' or o.state = any(states)) and (of_tenant is null or o.tenant = of_tenant)
      and (wanted is null or o.outbox_id = wanted)
    order by o.created_at desc, o.outbox_id desc limit most;
end;

create function count_outbox() returns table (queued bigint, delivered bigint, failed bigint)
    language sql stable security definer
begin atomic
    select (select count(*) from outbox where state = 'queued'),
           (select count(*) from outbox where state = 'delivered' and finished_at is not null),
           (select count(*) from outbox where state = 'failed' and finished_at is not null);
end;

create function forget_outbox(delivered_ms bigint, failed_ms bigint, most bigint) returns bigint
    language sql security definer
begin atomic
    with gone as (
        delete from outbox where (tenant, outbox_id) in (
            select o.tenant, o.outbox_id from outbox o
            where o.finished_at is not null
              and (o.state = 'delivered' and o.finished_at < now() - delivered_ms * interval '1 millisecond'
                or o.state = 'failed' and o.finished_at < now() - failed_ms * interval '1 millisecond')
            limit most)
        returning 1)
    select count(*) from gone;
end;

do $$
declare
    wide regprocedure;
begin
    for wide in
        select p.oid from pg_proc p where p.pronamespace = current_schema()::regnamespace and p.prosecdef
          and p.proname in ('claim_runs', 'count_runs', 'list_runs', 'unread_runs', 'claim_outbox', 'list_outbox', 'count_outbox',
                            'forget_outbox')
    loop
        execute format('revoke all on function %s from public', wide);
        execute format('grant execute on function %s to graphloom_app', wide);
        execute format('alter function %s owner to graphloom_claimer', wide);
    end loop;
    execute format('revoke create on schema %I from graphloom_claimer', current_schema());
    -- As in the migration that made the roles: the owner of the tables is to see no more than others do.
    if not (select rolsuper from pg_roles where rolname = current_user) then
        begin
            execute format('revoke graphloom_claimer from %I', current_user);
        exception when insufficient_privilege then null;
        end;
    end if;
end $$;
