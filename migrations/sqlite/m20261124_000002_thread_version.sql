-- The version of the graph that the thread's newest run has, so that a new version is held against the thread's state
-- before its first run is accepted. Threads from before are held against it once.

alter table thread add column hash text not null default '';
