-- Tenants take turns, and a run whose process died without progress is taken alone.

create index if not exists run_turn on run (tenant, ord) where state = 'queued' and not delayed;
create index if not exists run_working on run (tenant) where state = 'running';
create index if not exists run_suspect on run (ord) where crashes > 0 and state in ('queued', 'running');

-- Its owner took it alone, since a process had died with it before. It says so until the next claim.
alter table run add column suspect boolean not null default false;
