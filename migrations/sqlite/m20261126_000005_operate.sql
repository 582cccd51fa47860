-- Operators look for runs that were given up, and for what a user answered on threads of others.

create index run_dead on run (tenant, run_id) where state = 'dead';
create index interrupt_answered on interrupt (tenant, answered_by) where answered_by is not null;
