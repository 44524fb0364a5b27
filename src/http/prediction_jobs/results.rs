//! Results of prediction jobs as NDJSON or CSV, streamed from the database.

use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};

use crate::{
    domain::{PredictionJobId, Sha256},
    http::{
        ApiError,
        accept::negotiate,
        extract::PathOf,
        responses::{NotAcceptable, NotFound},
        stream as http_stream,
        transfers::Transfers,
    },
    service::Lifecycle,
    store::{self, JobResult, StoreError, Stores},
};

/// Results per query.
const PAGE: u32 = 500;

/// Last line of results that cannot be read to their end.
const INCOMPLETE_NDJSON: &str = "{\"error\":\"the results are incomplete: the server could not read the others\"}\n";
const INCOMPLETE_CSV: &str = "# the results are incomplete: the server could not read the others\n";

#[derive(Clone, Copy)]
enum Format {
    Ndjson,
    Csv,
}

const FORMATS: [(&str, Format); 2] = [("application/x-ndjson", Format::Ndjson), ("text/csv", Format::Csv)];

/// Returns the results of a prediction job so far, in the order of its images, as NDJSON (one `JobResult` per line) or as CSV with a
/// column for each class.
///
/// If a result cannot be read, the last line says so (`{"error": …}`, in CSV a line that begins with `#`), and the connection closes without
/// the end of the response.
#[utoipa::path(get, path = "/v1/prediction-jobs/{id}/results", tag = "predictions", params(("id" = PredictionJobId, Path)),
    responses(
        (status = 200, description = "One line per finished image", content(
            (JobResult = "application/x-ndjson"), (String = "text/csv")
        )),
        NotFound,
        NotAcceptable
    ))]
pub(super) async fn get_prediction_job_results(
    State(stores): State<Stores>,
    State(transfers): State<Transfers>,
    State(lifecycle): State<Lifecycle>,
    headers: HeaderMap,
    PathOf(id): PathOf<PredictionJobId>,
) -> Result<Response, ApiError> {
    let format = negotiate(&headers, &FORMATS)?;
    let job = super::find(&stores, id).await?;
    let (media_type, first) = match format {
        Format::Ndjson => (FORMATS[0].0, None),
        Format::Csv => ("text/csv; charset=utf-8", Some(Bytes::from(record(&head(&job.classes))?))),
    };
    let page = move |(from, classes): (u64, Vec<String>)| {
        let db = stores.db.clone();
        async move {
            let results = store::prediction_jobs::results(&db, id, from, PAGE).await?;
            let Some(last) = results.last() else { return Ok(None) };
            let next = last.sequence + 1;
            let lines = lines(format, &classes, &results)?;
            Ok::<_, StoreError>(Some((Bytes::from(lines), (next, classes))))
        }
    };
    let begun = stream::iter(first.map(Ok::<_, StoreError>));
    let rest = stream::try_unfold((0, job.classes), page);
    let pages = with_last_line(format, begun.chain(rest));
    let body = http_stream::body(&lifecycle.tasks, pages, transfers.limits.read_pause, ());
    Ok(([(header::CONTENT_TYPE, media_type), (header::VARY, "accept")], body).into_response())
}

/// Appends a last line that says so where a page cannot be read, before the response breaks off: a text has no length to check.
fn with_last_line(
    format: Format,
    pages: impl Stream<Item = Result<Bytes, StoreError>> + Send,
) -> impl Stream<Item = Result<Bytes, StoreError>> + Send {
    let with_line = move |page| {
        let line = match (&page, format) {
            (Ok(_), _) => None,
            (Err(_), Format::Ndjson) => Some(Ok(Bytes::from_static(INCOMPLETE_NDJSON.as_bytes()))),
            (Err(_), Format::Csv) => Some(Ok(Bytes::from_static(INCOMPLETE_CSV.as_bytes()))),
        };
        stream::iter(line.into_iter().chain([page]))
    };
    pages.flat_map(with_line)
}

fn lines(format: Format, classes: &[String], results: &[JobResult]) -> Result<Vec<u8>, StoreError> {
    let failed = |why: serde_json::Error| StoreError::Row(format!("prediction_job_results: {why}"));
    let mut lines = Vec::new();
    for result in results {
        match format {
            Format::Ndjson => {
                serde_json::to_writer(&mut lines, result).map_err(failed)?;
                lines.push(b'\n');
            }
            Format::Csv => lines.extend(record(&row(classes, result))?),
        }
    }
    Ok(lines)
}

fn head(classes: &[String]) -> Vec<String> {
    let before = ["sequence", "radiograph_id", "file_name", "sha256", "label", "prediction"];
    before.into_iter().map(str::to_owned).chain(classes.iter().cloned()).chain(["problem".to_owned()]).collect()
}

fn row(classes: &[String], result: &JobResult) -> Vec<String> {
    let probability = |class: &String| {
        let found = result.probabilities.as_ref().and_then(|of| of.get(class));
        found.map_or_else(String::new, |probability| probability.to_string())
    };
    let before = [
        result.sequence.to_string(),
        result.radiograph_id.map_or_else(String::new, |id| id.to_string()),
        text(&result.file_name),
        result.sha256.as_ref().map(Sha256::as_str).unwrap_or_default().to_owned(),
        result.label.clone().unwrap_or_default(),
        result.prediction.clone().unwrap_or_default(),
    ];
    let problem = text(result.problem.as_deref().unwrap_or_default());
    before.into_iter().chain(classes.iter().map(probability)).chain([problem]).collect()
}

/// Escapes a text from an archive, so that a spreadsheet does not evaluate it as a formula.
fn text(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() }
}

fn record(fields: &[String]) -> Result<Vec<u8>, StoreError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let written = writer.write_record(fields).map_err(|why| why.to_string());
    let bytes = written.and_then(|()| writer.into_inner().map_err(|why| why.to_string()));
    bytes.map_err(|why| StoreError::Row(format!("csv: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn results_that_cannot_be_read_end_with_a_line_that_says_so() {
        for (format, line) in [(Format::Ndjson, INCOMPLETE_NDJSON), (Format::Csv, INCOMPLETE_CSV)] {
            let pages = [Ok(Bytes::from_static(b"1\n")), Err(StoreError::Row("damaged".into()))];
            let sent: Vec<_> = with_last_line(format, stream::iter(pages)).collect().await;
            assert_eq!(sent[1].as_ref().unwrap(), line);
            assert!(sent.len() == 3 && sent[2].is_err());
        }
        assert!(serde_json::from_str::<serde_json::Value>(INCOMPLETE_NDJSON).is_ok());
    }

    #[test]
    fn a_row_has_a_column_for_each_class_and_no_formulas() {
        let classes = ["normal".to_owned(), "COVID-19".to_owned()];
        let result = JobResult {
            sequence: 7,
            radiograph_id: None,
            file_name: "=cmd()/a,b.png".into(),
            sha256: None,
            label: Some("normal".into()),
            prediction: Some("COVID-19".into()),
            probabilities: Some([("normal".into(), 0.25), ("COVID-19".into(), 0.75)].into()),
            problem: None,
        };
        let text = String::from_utf8(lines(Format::Csv, &classes, std::slice::from_ref(&result)).unwrap()).unwrap();
        assert_eq!(text, "7,,\"'=cmd()/a,b.png\",,normal,COVID-19,0.25,0.75,\n");
        assert_eq!(
            head(&classes).join(","),
            "sequence,radiograph_id,file_name,sha256,label,prediction,normal,COVID-19,problem"
        );
        let line = lines(Format::Ndjson, &classes, std::slice::from_ref(&result)).unwrap();
        assert_eq!(serde_json::from_slice::<JobResult>(&line).unwrap(), result);
    }
}
