//! What an import has done so far, written to its row now and then.

use std::{
    collections::HashMap,
    mem,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use crate::{
    dataset::Added,
    domain::{ImportStatus, Sha256},
    store::{Db, ExcludedRows, Import, ImportRejection, RejectionKind, StoreError, imports},
};

use super::{Candidate, Refused, layout::Origin};

const REPORT_INTERVAL: Duration = Duration::from_millis(500);

pub(super) struct Ledger<'a> {
    db: &'a Db,
    import: Import,
    progress: &'a mut (dyn FnMut(&Import) + Send),
    unwritten: Vec<ImportRejection>,
    reported: Instant,
    /// The images of this import by content, to tell a repeated row from a contradicting one.
    seen: HashMap<Sha256, Candidate>,
}

impl<'a> Ledger<'a> {
    pub(super) fn new(db: &'a Db, import: Import, progress: &'a mut (dyn FnMut(&Import) + Send)) -> Self {
        Self { db, import, progress, unwritten: Vec::new(), reported: Instant::now(), seen: HashMap::new() }
    }

    pub(super) async fn begin(&mut self, total: u64, passed_over: Vec<ExcludedRows>) -> Result<(), StoreError> {
        self.import.total = total;
        self.import.passed_over = passed_over;
        self.report().await
    }

    /// Counts an image that the data set now holds.
    pub(super) fn record(&mut self, origin: Origin, candidate: Candidate, added: Added) {
        let radiograph = match added {
            Added::Created(radiograph) => {
                self.import.created += 1;
                self.seen.insert(radiograph.sha256, candidate);
                return;
            }
            Added::Duplicate(radiograph) => radiograph,
        };
        match self.seen.get(&radiograph.sha256) {
            Some(first) if (&first.label, first.split) != (&candidate.label, candidate.split) => {
                let reason = contradiction(&candidate, first);
                self.reject(origin, Refused { kind: RejectionKind::Contradiction, reason });
            }
            _ => {
                self.import.duplicates += 1;
                self.seen.entry(radiograph.sha256).or_insert(candidate);
            }
        }
    }

    pub(super) fn reject(&mut self, origin: Origin, Refused { kind, reason }: Refused) {
        self.import.rejected += 1;
        self.unwritten.push(ImportRejection { kind, file: origin.file, line: origin.line, reason });
    }

    pub(super) async fn report_if_due(&mut self) -> Result<(), StoreError> {
        if self.reported.elapsed() < REPORT_INTERVAL {
            return Ok(());
        }
        self.report().await
    }

    /// Ends the import: `succeeded`, or `failed` for a reason.
    pub(super) async fn finish(mut self, error: Option<String>) -> Result<Import, StoreError> {
        self.import.status = if error.is_some() { ImportStatus::Failed } else { ImportStatus::Succeeded };
        self.import.error = error;
        self.import.finished_at = Some(Timestamp::now());
        self.report().await?;
        Ok(self.import)
    }

    /// Leaves the import running, as far as it has come.
    pub(super) async fn pause(mut self) -> Result<Import, StoreError> {
        self.report().await?;
        Ok(self.import)
    }

    async fn report(&mut self) -> Result<(), StoreError> {
        self.reported = Instant::now();
        imports::update(self.db, &self.import, &self.unwritten).await?;
        mem::take(&mut self.unwritten);
        (self.progress)(&self.import);
        Ok(())
    }
}

fn contradiction(candidate: &Candidate, first: &Candidate) -> String {
    let place = |of: &Candidate| of.split.map_or_else(|| of.label.clone(), |split| format!("{} in {split}", of.label));
    format!(
        "{}: the same image as {}, which is {} and not {}; the first is kept",
        candidate.path,
        first.path,
        place(first),
        place(candidate)
    )
}
