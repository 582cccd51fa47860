-- Runs that begin later, runs that end when nobody reads them, and who is told of the end of a run.

-- It has not begun, and has no place among the runs of its thread before it is due.
alter table run add column delayed boolean not null default false;
-- Until then it counts as read; null: it goes on without readers.
alter table run add column read_until bigint;
-- Where its end is told, and each pause.
alter table run add column webhook text;
create index run_delayed on run (available_at) where state = 'queued' and delayed;
create index run_unread on run (read_until) where read_until is not null and state in ('queued', 'running');

-- The table has never held a row. What is told, one row for each end or pause of a run; with `available_at` also as the
-- end of the lease of whoever is telling it.
alter table outbox add column state text not null default 'queued' check (state in ('queued', 'delivered', 'failed'));
-- What went wrong the last time.
alter table outbox add column error text;
alter table outbox add column finished_at bigint;
create index outbox_due on outbox (available_at) where state = 'queued';
create index outbox_over on outbox (state, finished_at) where finished_at is not null;
