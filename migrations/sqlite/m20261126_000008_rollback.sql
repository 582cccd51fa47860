-- With its end, the head of the thread moves back to before the run.

alter table run add column rollback boolean not null default false;
