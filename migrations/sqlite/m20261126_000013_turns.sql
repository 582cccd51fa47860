-- Tenants take turns, and a run whose process died without progress is taken alone.

create index run_turn on run (tenant, ord) where state = 'queued' and not delayed;
create index run_working on run (tenant) where state = 'running';
create index run_suspect on run (ord) where crashes > 0 and state in ('queued', 'running');
