//! Recording of the progress and the rejections of an import.

use std::{
    collections::HashMap,
    mem,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use crate::{
    dataset::AddOutcome,
    domain::{ImportStatus, Sha256},
    store::{
        Db, ExcludedRows, Import, ImportConflict, ImportFindings, ImportRejection, RejectionKind, StoreError, imports,
    },
};

use super::{Candidate, Rejection, entry::EntryOrigin};

/// Minimum time between two updates of the row.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// Counts the outcomes of an import and writes them to its row.
pub(super) struct ImportRecorder<'a> {
    db: &'a Db,
    import: Import,
    progress: &'a mut (dyn FnMut(&Import) + Send),
    /// Findings that are not yet written.
    pending: ImportFindings,
    last_report: Instant,
    /// Candidates of this import by content hash, to distinguish repeated rows from contradicting ones.
    seen: HashMap<Sha256, Candidate>,
}

impl<'a> ImportRecorder<'a> {
    pub(super) fn new(db: &'a Db, import: Import, progress: &'a mut (dyn FnMut(&Import) + Send)) -> Self {
        Self {
            db,
            import,
            progress,
            pending: ImportFindings::default(),
            last_report: Instant::now(),
            seen: HashMap::new(),
        }
    }

    /// Records the total number of entries and the rows excluded by rules.
    pub(super) async fn begin(&mut self, total: u64, passed_over: Vec<ExcludedRows>) -> Result<(), StoreError> {
        self.import.total = total;
        self.import.passed_over = passed_over;
        self.report().await
    }

    /// Counts an image that is in the data set now. A repeated image with another class or split than in a former row is a rejection; one
    /// that differs from the radiograph that the data set had before is a conflict.
    pub(super) fn record(&mut self, origin: EntryOrigin, candidate: Candidate, outcome: AddOutcome) {
        let (radiograph, differs) = match outcome {
            AddOutcome::Created(radiograph) => {
                self.import.created += 1;
                self.seen.insert(radiograph.sha256, candidate);
                return;
            }
            AddOutcome::Duplicate(radiograph, differs) => (radiograph, differs),
        };
        match self.seen.get(&radiograph.sha256) {
            Some(first) if (&first.label, first.split) != (&candidate.label, candidate.split) => {
                let reason = contradiction(&candidate, first);
                self.reject(origin, Rejection { kind: RejectionKind::Contradiction, reason });
            }
            _ => {
                self.import.duplicates += 1;
                if !differs.is_empty() {
                    self.import.conflicting += 1;
                    let EntryOrigin { file, line } = origin;
                    self.pending.conflicts.push(ImportConflict { file, line, radiograph_id: radiograph.id, differs });
                }
                self.seen.entry(radiograph.sha256).or_insert(candidate);
            }
        }
    }

    /// Counts a rejection.
    pub(super) fn reject(&mut self, origin: EntryOrigin, Rejection { kind, reason }: Rejection) {
        self.import.rejected += 1;
        // A rejection of a whole file names it already.
        let repeated = origin.line.is_none().then(|| format!("{}: ", origin.file));
        let reason = repeated.and_then(|name| reason.strip_prefix(&name).map(str::to_owned)).unwrap_or(reason);
        self.pending.rejections.push(ImportRejection { kind, file: origin.file, line: origin.line, reason });
    }

    /// Updates the row if the report interval has passed.
    pub(super) async fn report_if_due(&mut self) -> Result<(), StoreError> {
        if self.last_report.elapsed() < REPORT_INTERVAL {
            return Ok(());
        }
        self.report().await
    }

    /// Ends the import: `succeeded`, or `failed` with an error.
    pub(super) async fn finish(mut self, error: Option<String>) -> Result<Import, StoreError> {
        self.import.status = if error.is_some() { ImportStatus::Failed } else { ImportStatus::Succeeded };
        self.import.error = error;
        self.import.finished_at = Some(Timestamp::now());
        self.report().await?;
        Ok(self.import)
    }

    /// Writes the current counts and leaves the import running.
    pub(super) async fn pause(mut self) -> Result<Import, StoreError> {
        self.report().await?;
        Ok(self.import)
    }

    /// Writes counts and pending findings.
    async fn report(&mut self) -> Result<(), StoreError> {
        self.last_report = Instant::now();
        imports::update(self.db, &self.import, &self.pending).await?;
        mem::take(&mut self.pending);
        (self.progress)(&self.import);
        Ok(())
    }
}

/// The reason for rejecting a repeated image with other labels.
fn contradiction(candidate: &Candidate, first: &Candidate) -> String {
    let labels = |of: &Candidate| of.split.map_or_else(|| of.label.clone(), |split| format!("{} in {split}", of.label));
    format!(
        "{}: same image as {}, which is {} instead of {}; the first one is used",
        candidate.path,
        first.path,
        labels(first),
        labels(candidate)
    )
}
