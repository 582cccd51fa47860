-- What is noted of acts: who did what, to what, and when. Names and ids stand in it as hashes, so that a note of a deletion
-- keeps nothing of what was deleted.

create table audit (
    tenant   text        not null,
    audit_id uuid        not null,
    at       timestamptz not null,
    act      text        not null,
    actor    text        not null,
    subject  text        not null,
    detail   text,
    primary key (tenant, audit_id)
);
create index audit_age on audit (at);
select guard_tenants('audit');
-- The service adds to it, and can do nothing else.
revoke select, update, delete on audit from graphloom_app;

grant select, insert, delete on audit to graphloom_claimer;
create policy looks on audit to graphloom_claimer using (true);

create function list_audit(of_tenant text, since timestamptz, names text[], most bigint)
    returns table (tenant text, audit_id uuid, at timestamptz, act text, actor text, subject text, detail text)
    language sql stable security definer
begin atomic
    select a.tenant, a.audit_id, a.at, a.act, a.actor, a.subject, a.detail from audit a
    where (of_tenant is null or a.tenant = of_tenant) and (since is null or a.at >= since)
      and (names = '{}' or a.subject = any(names) or a.actor = any(names))
    order by a.at desc, a.audit_id desc limit most;
end;

-- Whatever it is asked for, the last day stays.
create function forget_audit(age_ms bigint, most bigint) returns bigint language sql security definer
begin atomic
    with gone as (
        delete from audit where (tenant, audit_id) in (
            select a.tenant, a.audit_id from audit a
            where a.at < now() - greatest(age_ms, 86400000) * interval '1 millisecond'
            order by a.at limit most)
        returning 1)
    select count(*) from gone;
end;

-- The notes of a tenant go with its last thread, and one is left that says so.
create function erase_audit(of_tenant text, id uuid, noted timestamptz, what text, who text, about text, more text)
    returns void language sql security definer
begin atomic
    delete from audit a where a.tenant = of_tenant
      and not exists (select 1 from thread t where t.tenant = of_tenant);
    insert into audit (tenant, audit_id, at, act, actor, subject, detail)
    values ('*', id, noted, what, who, about, more);
end;

select hand_to_claimer('list_audit(text, timestamptz, text[], bigint)', 'forget_audit(bigint, bigint)',
                       'erase_audit(text, uuid, timestamptz, text, text, text, text)');
