-- The keys under which values of a tenant are encrypted, each wrapped by a master key that is in the settings alone.

create table data_key (
    tenant text not null,
    key_id blob not null,
    master text not null,
    wrapped blob not null,
    -- Of the deployment's: what stood before encryption was turned on is not all encrypted yet.
    converting boolean not null default false,
    created_at bigint not null default (cast(unixepoch('subsec') * 1000000 as integer)),
    primary key (tenant, key_id)
);
