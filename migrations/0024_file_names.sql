-- The name of a DICOM file may be the patient's name: names that earlier versions stored are replaced as new ones are (dataset/file_name.rs).
update radiographs set file_name = 'radiograph-' || substr(sha256, 1, 12) || '.dcm' where dicom_json is not null;

-- Results of jobs over data sets copy the names of radiographs. Names in archives came with an upload: their type is not known any more.
update prediction_job_results
    set file_name = coalesce((select file_name from radiographs where id = radiograph_id), 'file-' || sequence);

-- Rejected files of imports: the import and the position of the rejection remain.
update import_rejections
    set reason = replace(reason, file, '[file ' || sequence || ']'), file = '[file ' || sequence || ']'
    where line is null and (lower(file) like '%.dcm' or file glob '*[0-9]' or instr(file, '.') = 0);
