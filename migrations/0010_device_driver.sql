-- numbers of a GPU differ from driver to driver; null for a processor, and for runs of before
alter table run_provenance add column device_driver text;
