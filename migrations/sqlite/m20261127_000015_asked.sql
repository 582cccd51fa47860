-- Between its heartbeats a process asks for its runs that somebody ended.
create index run_asked on run (owner, boot) where state = 'running' and cancel_requested;
