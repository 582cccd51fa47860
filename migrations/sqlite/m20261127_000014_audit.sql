-- What is noted of acts: who did what, to what, and when. Names and ids stand in it as hashes, so that a note of a deletion
-- keeps nothing of what was deleted.

create table audit (
    tenant text not null,
    audit_id blob not null,
    at bigint not null,
    act text not null,
    actor text not null,
    subject text not null,
    detail text,
    primary key (tenant, audit_id)
);
create index audit_age on audit (at);
create trigger audit_stays before update on audit
begin
    select raise(abort, 'a note stays as it is');
end;
