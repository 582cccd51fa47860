-- The keys under which values of a tenant are encrypted, each wrapped by a master key that is in the settings alone.

create table data_key (
    tenant     text        not null,
    key_id     uuid        not null,
    master     text        not null,
    wrapped    bytea       not null,
    -- Of the deployment's: what stood before encryption was turned on is not all encrypted yet.
    converting boolean     not null default false,
    created_at timestamptz not null default clock_timestamp(),
    primary key (tenant, key_id)
);
select guard_tenants('data_key');

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
                    '`%1$s` is no member of the role graphloom_claimer. '
                    'An administrator runs: grant graphloom_claimer to %1$I', me);
            end if;
        end;
    end if;
end $$;

grant select (tenant) on data_key to graphloom_claimer;
create policy counts on data_key for select to graphloom_claimer using (true);

-- Whoever has a thread or a key, in pages.
create function list_tenants(after text, most bigint) returns table (tenant text)
    language sql stable security definer
begin atomic
    select t.tenant from (
        select thread.tenant from thread where thread.tenant > after
        union
        select data_key.tenant from data_key where data_key.tenant > after) t
    order by t.tenant limit most;
end;

do $$
begin
    -- Whoever is to own a function must be allowed to make one.
    execute format('grant create on schema %I to graphloom_claimer', current_schema());
    revoke all on function list_tenants(text, bigint) from public;
    grant execute on function list_tenants(text, bigint) to graphloom_app;
    alter function list_tenants(text, bigint) owner to graphloom_claimer;
    execute format('revoke create on schema %I from graphloom_claimer', current_schema());
    if not (select rolsuper from pg_roles where rolname = current_user) then
        begin
            execute format('revoke graphloom_claimer from %I', current_user);
        exception when insufficient_privilege then null;
        end;
    end if;
end $$;
