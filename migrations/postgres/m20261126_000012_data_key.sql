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

-- Gives functions to the role that looks over all tenants. Whoever migrates is a member of it only meanwhile, since the owner
-- of the tables is to see no more than others do; what an administrator lent, an administrator takes back.
create function hand_to_claimer(variadic functions regprocedure[]) returns void language plpgsql as $$
declare
    wide regprocedure;
begin
    if not (select rolsuper from pg_roles where rolname = current_user) then
        begin
            -- Also where it is a member: whoever made the role is one, and may not act as it before this.
            execute format('grant graphloom_claimer to %I', current_user);
        exception when insufficient_privilege then
            if not pg_has_role(current_user, 'graphloom_claimer', 'member') then
                raise insufficient_privilege using message = format(
                    '`%1$s` is no member of graphloom_claimer, which owns the functions that look over all tenants. '
                    'An administrator runs: grant graphloom_claimer to %1$I', current_user);
            end if;
        end;
    end if;
    -- Whoever is to own a function must be allowed to make one.
    execute format('grant create on schema %I to graphloom_claimer', current_schema());
    foreach wide in array functions loop
        execute format('revoke all on function %s from public', wide);
        execute format('grant execute on function %s to graphloom_app', wide);
        execute format('alter function %s owner to graphloom_claimer', wide);
    end loop;
    execute format('revoke create on schema %I from graphloom_claimer', current_schema());
    if not (select rolsuper from pg_roles where rolname = current_user) then
        begin
            execute format('revoke graphloom_claimer from %I', current_user);
        exception when insufficient_privilege then null;
        end;
    end if;
end $$;
revoke all on function hand_to_claimer(regprocedure[]) from public;

select hand_to_claimer('list_tenants(text, bigint)');
