-- What belongs to the deployment has a name that no tenant can have. SQLite has no wall between tenants.

update graph_version set tenant = '*' where tenant = '';
