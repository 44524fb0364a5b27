//! Statuses of imports and prediction jobs. Those of training runs are in `run.rs`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::InvalidTransition;

/// Status of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImportStatus {
    /// Reads the folder. An import that the server's shutdown interrupted keeps this status and resumes at the next start.
    Running,
    /// The whole folder was read; single rows and files may have been rejected.
    Succeeded,
    /// Ended before the whole folder was read. A server that starts during an import of the command line marks that import as failed as well;
    /// its next report corrects this.
    Failed,
}

impl ImportStatus {
    /// All statuses.
    pub const ALL: [Self; 3] = [Self::Running, Self::Succeeded, Self::Failed];

    /// The status after a change from `self` to `to`. This is the only place that says which changes are legal.
    ///
    /// # Errors
    /// When the import has succeeded.
    pub fn transition(self, to: Self) -> Result<Self, InvalidTransition> {
        match self {
            Self::Running | Self::Failed => Ok(to),
            Self::Succeeded => Err(InvalidTransition::status("an import", self.as_str(), to.as_str())),
        }
    }

    /// Name in the database and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }
}

/// Status of a prediction job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PredictionJobStatus {
    /// Waits for the jobs before it.
    Queued,
    /// Classifies its images. A job that the server's shutdown interrupted keeps this status and resumes at the next start.
    Running,
    /// All images were read; single images may have no prediction.
    Succeeded,
    /// Ended before all images were read.
    Failed,
}

impl PredictionJobStatus {
    /// All statuses.
    pub const ALL: [Self; 4] = [Self::Queued, Self::Running, Self::Succeeded, Self::Failed];

    /// The status after a change from `self` to `to`. This is the only place that says which changes are legal.
    ///
    /// # Errors
    /// When the job has ended, or would end without having started.
    pub fn transition(self, to: Self) -> Result<Self, InvalidTransition> {
        match (self, to) {
            (Self::Queued, Self::Running) | (Self::Running, Self::Running | Self::Succeeded | Self::Failed) => Ok(to),
            _ => Err(InvalidTransition::status("a prediction job", self.as_str(), to.as_str())),
        }
    }

    /// Name in the database and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for ImportStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for PredictionJobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ImportStatus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|status| status.as_str() == text);
        known.ok_or_else(|| format!("unknown import status {text:?}"))
    }
}

impl FromStr for PredictionJobStatus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|status| status.as_str() == text);
        known.ok_or_else(|| format!("unknown prediction job status {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_that_succeeded_does_not_change_its_status() {
        for from in ImportStatus::ALL {
            for to in ImportStatus::ALL {
                assert_eq!(from.transition(to).is_ok(), from != ImportStatus::Succeeded, "{from} to {to}");
            }
        }
    }

    #[test]
    fn a_prediction_job_runs_before_it_ends_and_stays_ended() {
        use PredictionJobStatus::*;
        let legal = [(Queued, Running), (Running, Running), (Running, Succeeded), (Running, Failed)];
        for from in PredictionJobStatus::ALL {
            for to in PredictionJobStatus::ALL {
                assert_eq!(from.transition(to).is_ok(), legal.contains(&(from, to)), "{from} to {to}");
            }
        }
        let error = Succeeded.transition(Running).unwrap_err();
        assert_eq!(error.to_string(), "a prediction job that is succeeded cannot become running");
    }

    #[test]
    fn names_are_those_of_the_api() {
        for status in ImportStatus::ALL {
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
            assert_eq!(status.as_str().parse(), Ok(status));
        }
        for status in PredictionJobStatus::ALL {
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
            assert_eq!(status.as_str().parse(), Ok(status));
        }
        assert!("asleep".parse::<ImportStatus>().is_err() && "asleep".parse::<PredictionJobStatus>().is_err());
    }
}
