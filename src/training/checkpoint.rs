//! Checkpoints: everything a run needs to resume, in one safetensors file. Each of its tensors holds the bytes of a whole file (network,
//! optimizer record); a JSON header is in the metadata.

use std::{borrow::Cow, collections::HashMap, path::Path, sync::Arc};

use burn::tensor::{Bytes, Device};
use safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};

use super::{
    CheckpointError, TrainingError,
    best_epoch::{BestEpoch, BestEpochTracker},
    progress_meter::MeterReading,
    running_metrics::RunningMetrics,
    step_trainer::{StepResumeState, StepState, StepTrainer},
    weight_average::WeightAverage,
};
use crate::{
    domain::{ModelSpec, Position, TrainingPlan},
    nn::{Identities, Network},
};

/// Format version. Checkpoints of other versions are refused.
const VERSION: u32 = 1;

const METADATA_KEY: &str = "thorax-checkpoint";

/// Names of the tensors.
const NETWORK: &str = "network";
const BEST: &str = "best";
const OPTIMIZER: &str = "optimizer";
const AVERAGE: &str = "average";

/// State of a run between two batches.
///
/// It holds no state of random number generators: the order of the images, their augmentation and dropout are functions of the seed and the
/// position.
#[derive(Debug)]
pub struct Checkpoint {
    header: Header,
    /// Model file of the network.
    network: Arc<Vec<u8>>,
    /// Model file of the stage's best epoch. Shares its bytes with `network` if that is the best epoch.
    best: Option<Arc<Vec<u8>>>,
    /// Optimizer record, within a step.
    optimizer: Option<Bytes>,
    /// Model file of the weight average, within a step that has one.
    average: Option<Vec<u8>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    version: u32,
    position: Position,
    /// Number of finished epochs of the run.
    epochs: u32,
    /// State of the epoch at `position`.
    epoch: EpochState,
    best: Option<BestEpoch>,
    /// Identities by which the optimizer record refers to the parameters of the network.
    identities: Identities,
    #[serde(rename = "course")]
    step: StepState,
    /// Number of updates of the weight average.
    #[serde(rename = "averaged")]
    average_updates: u64,
    meter: MeterReading,
}

/// State of an unfinished epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct EpochState {
    #[serde(rename = "tally")]
    pub(super) metrics: RunningMetrics,
    /// Wall time so far.
    pub(super) seconds: f64,
}

impl EpochState {
    /// Before the first batch.
    pub(super) fn new(classes: usize) -> Self {
        Self { metrics: RunningMetrics::new(classes), seconds: 0.0 }
    }
}

/// The parts of a checkpoint.
pub(super) struct Parts<'a> {
    pub(super) position: Position,
    pub(super) epochs: u32,
    pub(super) meter: MeterReading,
    pub(super) epoch: EpochState,
    pub(super) network: Arc<Vec<u8>>,
    pub(super) best: &'a BestEpochTracker,
    /// Within a step, its trainer and the network that it trains.
    pub(super) within_step: Option<(&'a StepTrainer<'a>, &'a Network)>,
}

/// State in which a stage starts or resumes.
pub(super) struct ResumeState {
    pub(super) position: Position,
    /// In inference mode.
    pub(super) network: Network,
    pub(super) best: BestEpochTracker,
    pub(super) epoch: EpochState,
    /// Set if the position is within a step.
    pub(super) within_step: Option<StepResumeState>,
}

impl Checkpoint {
    /// Assembles a checkpoint; `spec` is the specification of the network.
    pub(super) fn new(parts: Parts<'_>, spec: &ModelSpec) -> Result<Self, TrainingError> {
        let Parts { position, epochs, meter, epoch, network, best, within_step } = parts;
        let (best, best_file) = best.parts();
        let average = within_step.and_then(|(trainer, _)| trainer.average());
        let header = Header {
            version: VERSION,
            position,
            epochs,
            epoch,
            best,
            identities: within_step.map(|(_, network)| network.identities()).unwrap_or_default(),
            step: within_step.map(|(trainer, _)| trainer.state().clone()).unwrap_or_default(),
            average_updates: average.map_or(0, |average| average.updates),
            meter,
        };
        let optimizer = within_step.map(|(trainer, _)| trainer.optimizer_record()).transpose()?;
        let average = average.map(|average| average.network.to_bytes(spec));
        Ok(Self { header, network, best: best_file, optimizer, average })
    }

    /// Position of the next batch.
    pub fn position(&self) -> Position {
        self.header.position
    }

    /// Number of finished epochs of the run.
    pub fn epochs(&self) -> u32 {
        self.header.epochs
    }

    pub(super) fn meter(&self) -> &MeterReading {
        &self.header.meter
    }

    /// Writes the checkpoint to a file, without syncing it.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let header = serde_json::to_string(&self.header).map_err(std::io::Error::other)?;
        let separate = self.best.as_ref().filter(|best| !Arc::ptr_eq(best, &self.network));
        let parts = [(NETWORK, Some(self.network.as_slice())), (BEST, separate.map(|best| best.as_slice()))];
        let parts =
            parts.into_iter().chain([(OPTIMIZER, self.optimizer.as_deref()), (AVERAGE, self.average.as_deref())]);
        let parts = parts.filter_map(|(name, bytes)| Some((name, FileTensor::new(bytes?))));
        let metadata = HashMap::from([(METADATA_KEY.to_string(), header)]);
        safetensors::serialize_to_file(parts, Some(metadata), path).map_err(std::io::Error::other)
    }

    /// Reads a file written by [`Checkpoint::write`].
    ///
    /// # Errors
    /// If the file is damaged, is not a checkpoint or has another format version.
    pub fn read(file: &[u8]) -> Result<Self, CheckpointError> {
        let invalid = |error: safetensors::SafeTensorError| CheckpointError(error.to_string());
        let (_, metadata) = SafeTensors::read_metadata(file).map_err(invalid)?;
        let header = metadata.metadata().as_ref().and_then(|entries| entries.get(METADATA_KEY));
        let header = header.ok_or_else(|| CheckpointError(format!("no {METADATA_KEY:?} in its metadata")))?;
        let header: Header = serde_json::from_str(header).map_err(|error| CheckpointError(error.to_string()))?;
        if header.version != VERSION {
            return Err(CheckpointError(format!(
                "its format version is {}, this program reads version {VERSION}",
                header.version
            )));
        }
        let file = SafeTensors::deserialize(file).map_err(invalid)?;
        let part = |name: &str| file.tensor(name).ok().map(|view| view.data().to_vec());
        let network = part(NETWORK).ok_or_else(|| CheckpointError("it contains no network".into()))?;
        let network = Arc::new(network);
        let best = header.best.as_ref().map(|_| part(BEST).map_or_else(|| Arc::clone(&network), Arc::new));
        let optimizer = part(OPTIMIZER).map(Bytes::from_bytes_vec);
        Ok(Self { header, network, best, optimizer, average: part(AVERAGE) })
    }

    /// The state to resume from, on `device`, and the specification of the network.
    pub(super) fn resume_state(
        &self,
        plan: &TrainingPlan,
        device: &Device,
    ) -> Result<(ResumeState, ModelSpec), TrainingError> {
        let (network, spec) = Network::from_bytes(&self.network, device)?;
        let average = self.average.as_ref().map(|file| Network::from_bytes(file, device)).transpose()?;
        let average = average.map(|(network, _)| WeightAverage { network, updates: self.header.average_updates });
        let optimizer = self.optimizer.clone();
        let state = ResumeState {
            position: self.header.position,
            network: network.identified(&self.header.identities),
            best: BestEpochTracker::restore(plan.selection.metric, self.header.best.clone(), self.best.clone()),
            epoch: self.header.epoch.clone(),
            within_step: optimizer.map(|optimizer| StepResumeState {
                optimizer,
                average,
                state: self.header.step.clone(),
            }),
        };
        Ok((state, spec))
    }
}

impl ResumeState {
    /// The state at the start of a stage.
    pub(super) fn start_of_stage(stage: u32, network: Network, plan: &TrainingPlan, classes: usize) -> Self {
        Self {
            position: Position::start_of_stage(stage),
            network,
            best: BestEpochTracker::new(plan.selection.metric),
            epoch: EpochState::new(classes),
            within_step: None,
        }
    }
}

/// The bytes of a file as a one-dimensional tensor.
struct FileTensor<'a> {
    bytes: &'a [u8],
    shape: [usize; 1],
}

impl<'a> FileTensor<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, shape: [bytes.len()] }
    }
}

impl View for FileTensor<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::U8
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};
    use serde_json::json;

    use super::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        vec(any::<u8>(), 0..200)
    }

    /// A header with any numbers, which stand for the bits of a float where a float is.
    fn header() -> impl Strategy<Value = Header> {
        let position = any::<(u32, u32, u32, u32)>();
        let best = option::of(any::<(u32, u64)>());
        (position, best, vec(any::<u64>(), 0..5), any::<(u64, u64, u64)>(), any::<u32>()).prop_map(
            |((stage, step, epoch, batch), best, scores, (loss_sum, rate, updates), seconds)| {
                let best = best
                    .map(|(epoch, score)| json!({"place": {"stage": 1, "step": 2, "epoch": epoch}, "score": score}));
                let header = json!({
                    "version": VERSION,
                    "position": {"stage": stage, "step": step, "epoch": epoch, "batch": batch},
                    "epochs": epoch,
                    "epoch": {"tally": {"confusion": [[1, 2], [3, 4]], "loss_sum": loss_sum}, "seconds": seconds},
                    "best": best,
                    "identities": Identities::default(),
                    "course": {"base": rate, "scores": scores},
                    "averaged": updates,
                    "meter": MeterReading::default(),
                });
                serde_json::from_value(header).expect("the fields of a header")
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_written_checkpoint_is_read_back_bit_for_bit(
            header in header(),
            network in bytes(),
            best_file in option::of(bytes()),
            optimizer in option::of(bytes()),
            average in option::of(bytes()),
        ) {
            let network = Arc::new(network);
            // Without a file of its own the best epoch is the network itself.
            let best = header.best.as_ref().map(|_| best_file.map_or_else(|| Arc::clone(&network), Arc::new));
            let written = Checkpoint { header, network, best, optimizer: optimizer.map(Bytes::from_bytes_vec), average };
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("checkpoint.safetensors");
            written.write(&path).unwrap();
            let file = std::fs::read(&path).unwrap();
            let read = Checkpoint::read(&file).unwrap();
            let text = |header: &Header| serde_json::to_string(header).unwrap();
            prop_assert_eq!(text(&read.header), text(&written.header));
            prop_assert_eq!((&read.network, &read.best), (&written.network, &written.best));
            prop_assert_eq!((read.optimizer.as_deref(), &read.average), (written.optimizer.as_deref(), &written.average));
            prop_assert!(Checkpoint::read(&file[..file.len() - 1]).is_err(), "a torn file is refused");
        }
    }
}
