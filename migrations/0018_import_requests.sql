-- what a server was asked to import, as JSON: with it an import that a server's end interrupted goes on at the next start; null for
-- those of the command line, whose process nobody starts again
alter table imports add column request_json text;
