-- A key of a request that answers leads to the events that came of it; 0 and 0 for one that started its run.

alter table idempotency add column after_fence bigint not null default 0;
alter table idempotency add column after_n bigint not null default 0;
-- An answer's key is its caller's, who need not be the owner of the run.
create index idempotency_of_run on idempotency (tenant, run_id);

-- Its run is over, which may be taken back: nobody can answer the question.
alter table interrupt add column ended boolean not null default false;
update interrupt set ended = true where closed_at is null and exists (
    select 1 from run r where r.tenant = interrupt.tenant and r.run_id = interrupt.run_id
      and r.state not in ('queued', 'running', 'interrupted'));
drop index interrupt_for_agents;
create index interrupt_for_agents on interrupt (tenant, created_at, interrupt_id)
    where agent and answer is null and closed_at is null and not ended;
