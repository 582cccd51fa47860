-- Tenants take turns, and a run whose process died without progress is taken alone. Streams of runs that other processes
-- own are followed by one statement for all of them.

-- Each reads the whole table, to which nobody writes meanwhile. An operator may have built them beforehand, while all goes on.
create index if not exists run_turn on run (tenant, ord) where state = 'queued' and not delayed;
create index if not exists run_working on run (tenant) where state = 'running';
-- `crashes` moves with no superstep of a run that never crashed, so its row is still updated in place.
create index if not exists run_suspect on run (ord) where crashes > 0 and state in ('queued', 'running');

-- Its owner took it alone, since a process had died with it before. It says so until the next claim.
alter table run add column suspect boolean not null default false;
grant select (suspect), update (suspect) on run to graphloom_claimer;

-- In the place of the function of the same name with one argument less, which binaries from before call.
--
-- Runs that lost their owner come first: they had their turn. One that had lost one before and did not move on since may be
-- what killed it, so a process has one such run at a time. Of all others each tenant offers its oldest, and those go first
-- whose tenant has the least at work. How many a tenant gets is found out before anything is locked, so that claimers that
-- meet take the next ones and do not wait. Whether a run is the first of its thread is asked by one probe of an index for each,
-- and not by `not exists`, which the planner would join with all that the tenant has queued. Where tenants have a limit,
-- claimers go one after another: what comes after the lock sees what was taken under it.
create function claim_runs(me text, my_boot uuid, lease_ms bigint, most bigint, engine bigint, of_tenant bigint)
    returns table (tenant text, run_id uuid, fence bigint, crashed boolean, ord bigint)
    language sql security definer
begin atomic
    -- The number after that of the lock of migrations.
    select pg_advisory_xact_lock(7454127468667760494) where of_tenant is not null;
    -- What is delayed takes its place behind the other runs of its thread when it is due, one of a thread at a time.
    update run r set delayed = false, ord = default
    from (
        select d.tenant, d.run_id from run d
        where d.state = 'queued' and d.delayed and d.available_at <= now()
          and not exists (select 1 from run b where b.tenant = d.tenant and b.thread_id = d.thread_id
            and b.state = 'queued' and b.delayed and (b.available_at, b.ord) < (d.available_at, d.ord))
        order by d.available_at limit most for update of d skip locked) due
    where r.tenant = due.tenant and r.run_id = due.run_id;
    with recursive lost as materialized (
        select r.tenant, r.run_id, true as crashed, r.ord from run r
        where r.state = 'running' and (r.lease_until < now() or (r.owner = me and r.boot <> my_boot))
          and r.min_engine <= engine and r.crashes = 0
        order by r.ord limit most for update skip locked),
    suspect as materialized (
        select r.tenant, r.run_id, r.state = 'running' as crashed, r.ord from run r
        where r.crashes > 0 and r.state in ('queued', 'running') and r.min_engine <= engine
          and not exists (select 1 from run a where a.crashes > 0 and a.state in ('queued', 'running')
            and a.suspect and a.state = 'running' and a.owner = me and a.boot = my_boot and a.lease_until >= now())
          and case when r.state = 'running' then r.lease_until < now() or (r.owner = me and r.boot <> my_boot)
            else not r.delayed and r.available_at <= now()
              and (select true from run a where a.tenant = r.tenant and a.thread_id = r.thread_id
                and a.state in ('running', 'interrupted') limit 1) is null
              and r.ord = (select a.ord from run a where a.tenant = r.tenant and a.thread_id = r.thread_id
                and a.state = 'queued' and not a.delayed order by a.ord limit 1) end
        order by r.ord limit least(most, 1) for update of r skip locked),
    -- The tenants with queued runs, one step through the index for each.
    waiting (tenant) as (
        (select r.tenant from run r where r.state = 'queued' and not r.delayed order by r.tenant limit 1)
        union all
        select (select r.tenant from run r
                where r.state = 'queued' and not r.delayed and r.tenant > w.tenant order by r.tenant limit 1)
        from waiting w where w.tenant is not null),
    asking as materialized (
        select w.tenant, (most + count(*) over () - 1) / count(*) over () as share,
          -- Not those that wait to be taken alone.
          (select count(*) from run a where a.tenant = w.tenant and a.state = 'running'
             and (a.crashes = 0 or a.lease_until >= now())) as working
        from (select tenant from waiting where tenant is not null
              union select r.tenant from run r where r.state = 'interrupted' and r.wake_at <= now()) w),
    offer as materialized (
        select a.tenant, o.state, o.ord,
          a.working + row_number() over (partition by a.tenant order by o.ord) as turn
        from asking a cross join lateral (
            (select r.state, r.ord from run r
             where r.tenant = a.tenant and r.state = 'queued' and not r.delayed and r.available_at <= now() and r.min_engine <= engine
               and r.crashes = 0
               and (select true from run b where b.tenant = r.tenant and b.thread_id = r.thread_id
                 and b.state in ('running', 'interrupted') limit 1) is null
               and r.ord = (select b.ord from run b where b.tenant = r.tenant and b.thread_id = r.thread_id
                 and b.state = 'queued' and not b.delayed order by b.ord limit 1)
             order by r.ord limit a.share)
            union all
            (select r.state, r.ord from run r
             where r.tenant = a.tenant and r.state = 'interrupted' and r.wake_at <= now() and r.min_engine <= engine
             order by r.ord limit a.share)) o),
    quota as materialized (
        select t.tenant, t.state, count(*) as runs from (
            select o.tenant, o.state from offer o where of_tenant is null or o.turn <= of_tenant
            order by o.turn, o.ord limit most) t
        group by t.tenant, t.state),
    due as materialized (
        select d.* from quota q cross join lateral (
            select r.tenant, r.run_id, false as crashed, r.ord from run r
            where r.tenant = q.tenant and r.state = 'interrupted' and r.wake_at <= now() and r.min_engine <= engine
            order by r.ord limit q.runs for update skip locked) d
        where q.state = 'interrupted'),
    -- The locks are strong so that a result which the former owner still writes is waited out, or waits and then finds
    -- another fence.
    ready as materialized (
        select n.* from quota q cross join lateral (
            select r.tenant, r.run_id, false as crashed, r.ord from run r
            where r.tenant = q.tenant and r.state = 'queued' and not r.delayed and r.available_at <= now() and r.min_engine <= engine
              and r.crashes = 0
              and (select true from run b where b.tenant = r.tenant and b.thread_id = r.thread_id
                and b.state in ('running', 'interrupted') limit 1) is null
              and r.ord = (select b.ord from run b where b.tenant = r.tenant and b.thread_id = r.thread_id
                and b.state = 'queued' and not b.delayed order by b.ord limit 1)
            order by r.ord limit q.runs for update of r skip locked) n
        where q.state = 'queued'),
    pick as materialized (
        select s.*, true as suspect from suspect s
        union all select l.*, false from lost l
        union all select d.*, false from due d
        union all select n.*, false from ready n
        limit most)
    update run r set state = 'running', fence = r.fence + 1, crashes = r.crashes + p.crashed::int, suspect = p.suspect,
        owner = me, boot = my_boot, lease_until = now() + lease_ms * interval '1 millisecond'
    from pick p where r.tenant = p.tenant and r.run_id = p.run_id
    returning r.tenant, r.run_id, r.fence, p.crashed, r.ord;
end;

-- How far followed runs have got, of all tenants at once. What they told is read for the tenant of each.
grant select (tenant, run_id, fence, first_n, last_n) on event to graphloom_claimer;
create policy counts on event for select to graphloom_claimer using (true);

create function run_heads(tenants text[], runs uuid[])
    returns table (run_id uuid, state text, last_fence bigint, last_n bigint)
    language sql stable security definer
begin atomic
    select r.run_id, r.state, e.fence, e.last_n
    from unnest(tenants, runs) as w (tenant, run_id)
    join run r on r.tenant = w.tenant and r.run_id = w.run_id
    left join lateral (
        select e.fence, e.last_n from event e where e.tenant = r.tenant and e.run_id = r.run_id
        order by e.fence desc, e.first_n desc limit 1) e on true;
end;

select hand_to_claimer('claim_runs(text, uuid, bigint, bigint, bigint, bigint)', 'run_heads(text[], uuid[])');
