-- A second wall between tenants: the database shows a transaction the rows of the tenant that it names, and no others,
-- whatever a query forgot to ask for. It takes two roles that nobody logs in as:
--
--   graphloom_app      the service. It owns nothing, and every policy holds it.
--   graphloom_claimer  owns the functions below, which look over all tenants for work. They return ids and states, and
--                      it may read no column that holds what anybody said.
--
-- A migration that adds a table ends with `select guard_tenants('the_table')`; a test asks every table for its wall. One
-- that changes rows must lift `force row level security` from their table, for the owner is held by it as well.

do $$
declare
    me constant text := current_user;
    wanted text;
begin
    foreach wanted in array array['graphloom_app', 'graphloom_claimer'] loop
        if not exists (select 1 from pg_roles where rolname = wanted) then
            begin
                execute format('create role %I nologin', wanted);
            exception
                -- Another database of this server comes to this version at the same moment.
                when duplicate_object or unique_violation then null;
                when insufficient_privilege then
                    raise insufficient_privilege using message = format(
                        'the roles graphloom_app and graphloom_claimer are missing, and `%1$s` may not make them. '
                        'An administrator runs: create role graphloom_app nologin; create role graphloom_claimer nologin; '
                        'grant graphloom_app, graphloom_claimer to %1$I', me);
            end;
        end if;
        if not (select rolsuper from pg_roles where rolname = me) then
            begin
                execute format('grant %I to %I', wanted, me);
            exception when insufficient_privilege then
                -- An administrator may have granted it.
                if not pg_has_role(me, wanted, 'member') then
                    raise insufficient_privilege using message = format(
                        '`%1$s` is no member of the roles of the service. '
                        'An administrator runs: grant graphloom_app, graphloom_claimer to %1$I', me);
                end if;
            end;
        end if;
    end loop;
    execute format('grant usage on schema %I to graphloom_app, graphloom_claimer', current_schema());
end $$;

-- The tenant of a transaction is what the setting `graphloom.tenant` says. A value of this type says it: its check is made
-- when a statement gets its values, which is before the statement is planned, and takes no round trip of its own.
create domain acting_tenant as text check (set_config('graphloom.tenant', value, true) is not null);

-- Puts the wall around a table whose rows belong to tenants.
create function guard_tenants(guarded regclass) returns void language plpgsql as $$
begin
    execute format('alter table %s enable row level security', guarded);
    execute format('alter table %s force row level security', guarded);
    -- After a transaction the setting reads as '', and not as null.
    execute format('create policy tenant on %s using (tenant = nullif(current_setting(''graphloom.tenant'', true), ''''))',
                   guarded);
    execute format('grant select, insert, update, delete on %s to graphloom_app', guarded);
end $$;
revoke all on function guard_tenants(regclass) from public;

-- What belongs to the deployment has a name that no tenant can have.
update graph_version set tenant = '*' where tenant = '';

do $$
declare
    guarded regclass;
begin
    for guarded in
        select c.oid from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant'
        where c.relnamespace = current_schema()::regnamespace and c.relkind = 'r'
    loop
        perform guard_tenants(guarded);
    end loop;
end $$;
grant select on seaql_migrations to graphloom_app;

grant select (tenant, run_id, thread_id, ord, graph, hash, min_engine, state, fence, crashes, cancel_requested, owner,
              boot, lease_until, available_at, wake_at, finished_at, kept, swept),
      update (state, fence, crashes, owner, boot, lease_until)
    on run to graphloom_claimer;
create policy claims on run to graphloom_claimer using (true);
grant select (tenant, thread_id, hash) on thread to graphloom_claimer;
create policy counts on thread for select to graphloom_claimer using (true);
grant select (created_at), delete on idempotency to graphloom_claimer;
create policy sees_old on idempotency for select to graphloom_claimer
    using (created_at <= now() - interval '24 hours');
create policy forgets_old on idempotency for delete to graphloom_claimer
    using (created_at <= now() - interval '24 hours');

grant select (tenant, key, expires_at), update (expires_at), delete on cache to graphloom_claimer;
create policy forgets_old on cache to graphloom_claimer using (expires_at <= now());

-- The locks are strong so that a result which the former owner still writes is waited out, or waits and then finds another
-- fence.
create function claim_runs(me text, my_boot uuid, lease_ms bigint, most bigint, engine bigint)
    returns table (tenant text, run_id uuid, fence bigint, crashed boolean, ord bigint)
    language sql security definer
begin atomic
    with lost as materialized (
        select r.tenant, r.run_id, true as crashed, r.ord from run r
        where r.state = 'running' and (r.lease_until < now() or (r.owner = me and r.boot <> my_boot))
          and r.min_engine <= engine
        order by r.ord limit most for update skip locked),
    ready as materialized (
        select r.tenant, r.run_id, false as crashed, r.ord from run r
        where r.state = 'queued' and r.available_at <= now() and r.min_engine <= engine
          and not exists (select 1 from run a where a.tenant = r.tenant and a.thread_id = r.thread_id
            and a.state in ('running', 'interrupted'))
          and not exists (select 1 from run a where a.tenant = r.tenant and a.thread_id = r.thread_id
            and a.state = 'queued' and a.ord < r.ord)
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

-- A row that its own commit has locked is skipped: the commit renews that lease, and one slow commit must not hold up
-- the others' heartbeat.
create function beat_runs(me text, my_boot uuid, lease_ms bigint, live uuid[])
    returns table (run_id uuid, cancel_requested boolean)
    language sql security definer
begin atomic
    with mine as materialized (
        select r.tenant, r.run_id from run r
        where r.state = 'running' and r.owner = me and r.boot = my_boot and r.run_id = any(live)
        for no key update skip locked),
    beat as (
        update run r set lease_until = now() + lease_ms * interval '1 millisecond'
        from mine m where r.tenant = m.tenant and r.run_id = m.run_id)
    select r.run_id, r.cancel_requested from run r
    where r.state = 'running' and r.owner = me and r.boot = my_boot and r.run_id = any(live) order by r.ord;
end;

create function forget_keys() returns void language sql security definer
begin atomic
    delete from idempotency where created_at <= now() - interval '24 hours';
end;

-- Whoever replaces a result meanwhile is not waited for: then it is not over any more.
create function forget_cached(most bigint) returns bigint language sql security definer
begin atomic
    with gone as (
        delete from cache where (tenant, key) in (
            select c.tenant, c.key from cache c where c.expires_at <= now()
            order by c.expires_at limit most for update skip locked)
        returning 1)
    select count(*) from gone;
end;

-- Runs that are over for so long, and of whose events just this is kept.
create function overdue_runs(kept_now bigint, age_ms bigint, most bigint)
    returns table (tenant text, run_id uuid) language sql stable security definer
begin atomic
    select r.tenant, r.run_id from run r
    where r.kept = kept_now and r.kept > 0 and r.finished_at is not null
      and r.finished_at < now() - age_ms * interval '1 millisecond'
    order by r.finished_at limit most;
end;

create function unswept_threads(age_ms bigint, most bigint)
    returns table (tenant text, thread_id uuid) language sql stable security definer
begin atomic
    select distinct due.tenant, due.thread_id from (
        select r.tenant, r.thread_id from run r
        where r.finished_at is not null and r.finished_at < now() - age_ms * interval '1 millisecond' and not r.swept
        order by r.finished_at limit most) due;
end;

create function find_run(wanted uuid) returns table (tenant text, run_id uuid) language sql stable security definer
begin atomic
    select r.tenant, r.run_id from run r where r.run_id = wanted;
end;

-- The states one by one, because each has an index of its own.
create function list_runs(states text[], of_tenant text, before uuid, of_thread uuid, most bigint)
    returns table (tenant text, run_id uuid) language sql stable security definer
begin atomic
    select r.tenant, r.run_id from run r
    where (states = '{}' or (r.state = 'dead' and 'dead' = any(states)) or (r.state = 'queued' and 'queued' = any(states))
        or (r.state = 'running' and 'running' = any(states))
        or (r.state = 'interrupted' and 'interrupted' = any(states)) or r.state = any(states))
      and (of_tenant is null or r.tenant = of_tenant) and (before is null or r.run_id < before)
      and (of_thread is null or r.thread_id = of_thread)
    order by r.run_id desc limit most;
end;

create function count_runs() returns table (queued bigint, running bigint, active bigint, dead bigint)
    language sql stable security definer
begin atomic
    select (select count(*) from run where state = 'queued'),
           (select count(*) from run where state = 'running'),
           (select count(*) from run where state in ('running', 'interrupted')),
           (select count(*) from run where state = 'dead');
end;

create function use_of_version(wanted text)
    returns table (threads bigint, waiting bigint, active bigint, paused bigint)
    language sql stable security definer
begin atomic
    select (select count(*) from thread where hash = wanted),
           (select count(*) from run where hash = wanted and state = 'queued'),
           (select count(*) from run where hash = wanted and state in ('running', 'interrupted')),
           (select count(*) from run where hash = wanted and state = 'interrupted');
end;

create function paused_versions() returns table (graph text, hash text, paused bigint)
    language sql stable security definer
begin atomic
    select r.graph, r.hash, count(*) from run r where r.state = 'interrupted' group by r.graph, r.hash;
end;

do $$
declare
    wide regprocedure;
begin
    -- Whoever is to own a function must be allowed to make one.
    execute format('grant create on schema %I to graphloom_claimer', current_schema());
    for wide in
        select p.oid from pg_proc p where p.pronamespace = current_schema()::regnamespace and p.prosecdef
          and p.proname in ('claim_runs', 'beat_runs', 'forget_keys', 'forget_cached', 'overdue_runs', 'unswept_threads',
                            'find_run', 'list_runs', 'count_runs', 'use_of_version', 'paused_versions')
    loop
        execute format('revoke all on function %s from public', wide);
        execute format('grant execute on function %s to graphloom_app', wide);
        execute format('alter function %s owner to graphloom_claimer', wide);
    end loop;
    execute format('revoke create on schema %I from graphloom_claimer', current_schema());
    -- The owner of the tables is to see no more than others do. What an administrator lent, an administrator takes back.
    if not (select rolsuper from pg_roles where rolname = current_user) then
        begin
            execute format('revoke graphloom_claimer from %I', current_user);
        exception when insufficient_privilege then null;
        end;
    end if;
end $$;
