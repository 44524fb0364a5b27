-- SHA-256 of the uploaded bytes where other bytes are stored (a DICOM, or an image with metadata): tells duplicates. Null: the same.
alter table radiographs add column upload_sha256 text check (length(upload_sha256) = 64);
-- what is kept of a DICOM header, the allow-list and no more; null for other files
alter table radiographs add column dicom_json text;
-- what looked wrong with the image when it came in
alter table radiographs add column flags_json text not null default '[]';
create index radiographs_by_upload on radiographs (dataset_id, upload_sha256) where upload_sha256 is not null;
-- flags with which a radiograph is refused in this data set, as JSON
alter table datasets add column refuse_json text not null default '[]';
-- whether patient_id is a keyed hash. Rows from before are 0, and the next start hashes them.
alter table radiographs add column patient_id_hashed integer not null default 0 check (patient_id_hashed in (0, 1));
