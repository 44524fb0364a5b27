//! All that a run needs to go on where it stood, in one file: safetensors whose tensors are whole files of bytes.

use std::{borrow::Cow, collections::HashMap, path::Path, sync::Arc};

use burn::tensor::{Bytes, Device};
use safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};

use super::{
    TrainingError,
    average::Average,
    best::{Best, Found},
    course::{Course, CourseStanding},
    meter,
    tally::Tally,
};
use crate::{
    domain::{ModelSpec, Position, TrainingPlan},
    nn::{Identities, Network},
};

/// Of the format: a checkpoint of another one is not read.
const VERSION: u32 = 1;

const METADATA_KEY: &str = "thorax-checkpoint";

/// Names of the parts.
const NETWORK: &str = "network";
const BEST: &str = "best";
const OPTIMIZER: &str = "optimizer";
const AVERAGE: &str = "average";

/// Where a run stands.
///
/// Nothing random is in it but the seed of the run: the order of an epoch's images and what its dropout draws follow from seed and place.
#[derive(Debug)]
pub struct Checkpoint {
    header: Header,
    /// A model file.
    network: Arc<Vec<u8>>,
    /// The model file of the stage's best epoch; shared with the network where that is it.
    best: Option<Arc<Vec<u8>>>,
    /// The optimizer's record, within a step.
    optimizer: Option<Bytes>,
    /// The model file of the moving average, within a step that has one.
    average: Option<Vec<u8>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    version: u32,
    position: Position,
    /// Epochs done in the run.
    epochs: u32,
    /// Of the epoch that `position` is in.
    epoch: EpochSoFar,
    best: Option<Found>,
    /// By which the optimizer knows the network's parameters.
    identities: Identities,
    course: CourseStanding,
    /// How many batches the moving average has followed.
    averaged: u64,
    meter: meter::Reading,
}

/// What an epoch has come to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct EpochSoFar {
    pub(super) tally: Tally,
    /// Wall time.
    pub(super) seconds: f64,
}

impl EpochSoFar {
    /// Nothing yet.
    pub(super) fn new(classes: usize) -> Self {
        Self { tally: Tally::new(classes), seconds: 0.0 }
    }
}

/// What a checkpoint is made of.
pub(super) struct Parts<'a> {
    pub(super) position: Position,
    pub(super) epochs: u32,
    pub(super) meter: meter::Reading,
    pub(super) epoch: EpochSoFar,
    pub(super) network: Arc<Vec<u8>>,
    pub(super) best: &'a Best,
    /// Within a step its course, and the network that it trains.
    pub(super) within: Option<(&'a Course<'a>, &'a Network)>,
}

/// What a step goes on from.
pub(super) struct WithinStep {
    /// The optimizer's record.
    pub(super) optimizer: Bytes,
    pub(super) average: Option<Average>,
    pub(super) standing: CourseStanding,
}

/// Where a stage begins or goes on.
pub(super) struct Standing {
    pub(super) position: Position,
    /// In inference mode.
    pub(super) network: Network,
    pub(super) best: Best,
    pub(super) epoch: EpochSoFar,
    pub(super) within: Option<WithinStep>,
}

/// Why a file is no checkpoint of a run.
#[derive(Debug, thiserror::Error)]
#[error("the checkpoint cannot be used: {0}")]
pub struct CheckpointError(String);

impl CheckpointError {
    pub(super) fn of_optimizer(error: burn::store::RecordError) -> Self {
        Self(format!("the optimizer's state: {error}"))
    }
}

impl Checkpoint {
    /// `spec` is the network's.
    pub(super) fn of(parts: Parts<'_>, spec: &ModelSpec) -> Result<Self, TrainingError> {
        let Parts { position, epochs, meter, epoch, network, best, within } = parts;
        let (best, best_file) = best.parts();
        let average = within.and_then(|(course, _)| course.average());
        let header = Header {
            version: VERSION,
            position,
            epochs,
            epoch,
            best,
            identities: within.map(|(_, network)| network.identities()).unwrap_or_default(),
            course: within.map(|(course, _)| course.standing().clone()).unwrap_or_default(),
            averaged: average.map_or(0, |average| average.batches),
            meter,
        };
        let optimizer = within.map(|(course, _)| course.optimizer_record()).transpose()?;
        let average = average.map(|average| average.network.to_bytes(spec));
        Ok(Self { header, network, best: best_file, optimizer, average })
    }

    /// The next batch.
    pub fn position(&self) -> Position {
        self.header.position
    }

    /// Epochs that are done in the run.
    pub fn epochs(&self) -> u32 {
        self.header.epochs
    }

    pub(super) fn meter(&self) -> &meter::Reading {
        &self.header.meter
    }

    /// Writes the file, without syncing it.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let header = serde_json::to_string(&self.header).map_err(std::io::Error::other)?;
        let separate = self.best.as_ref().filter(|best| !Arc::ptr_eq(best, &self.network));
        let parts = [(NETWORK, Some(self.network.as_slice())), (BEST, separate.map(|best| best.as_slice()))];
        let parts =
            parts.into_iter().chain([(OPTIMIZER, self.optimizer.as_deref()), (AVERAGE, self.average.as_deref())]);
        let parts = parts.filter_map(|(name, bytes)| Some((name, Part::new(bytes?))));
        let metadata = HashMap::from([(METADATA_KEY.to_string(), header)]);
        safetensors::serialize_to_file(parts, Some(metadata), path).map_err(std::io::Error::other)
    }

    /// Reads what [`Checkpoint::write`] wrote.
    pub fn read(file: &[u8]) -> Result<Self, CheckpointError> {
        let wrong = |error: safetensors::SafeTensorError| CheckpointError(error.to_string());
        let (_, metadata) = SafeTensors::read_metadata(file).map_err(wrong)?;
        let header = metadata.metadata().as_ref().and_then(|entries| entries.get(METADATA_KEY));
        let header = header.ok_or_else(|| CheckpointError(format!("no {METADATA_KEY:?} in its metadata")))?;
        let header: Header = serde_json::from_str(header).map_err(|error| CheckpointError(error.to_string()))?;
        if header.version != VERSION {
            return Err(CheckpointError(format!("it is of version {}, this program reads {VERSION}", header.version)));
        }
        let file = SafeTensors::deserialize(file).map_err(wrong)?;
        let part = |name: &str| file.tensor(name).ok().map(|view| view.data().to_vec());
        let network = part(NETWORK).ok_or_else(|| CheckpointError("it holds no network".into()))?;
        let network = Arc::new(network);
        let best = header.best.as_ref().map(|_| part(BEST).map_or_else(|| Arc::clone(&network), Arc::new));
        let optimizer = part(OPTIMIZER).map(Bytes::from_bytes_vec);
        Ok(Self { header, network, best, optimizer, average: part(AVERAGE) })
    }

    /// What training goes on from, on that device, and what the network is.
    pub(super) fn standing(
        &self,
        plan: &TrainingPlan,
        device: &Device,
    ) -> Result<(Standing, ModelSpec), TrainingError> {
        let (network, spec) = Network::from_bytes(&self.network, device)?;
        let average = self.average.as_ref().map(|file| Network::from_bytes(file, device)).transpose()?;
        let average = average.map(|(network, _)| Average { network, batches: self.header.averaged });
        let within = self.optimizer.clone();
        let standing = Standing {
            position: self.header.position,
            network: network.identified(&self.header.identities),
            best: Best::of(plan.selection.metric, self.header.best.clone(), self.best.clone()),
            epoch: self.header.epoch.clone(),
            within: within.map(|optimizer| WithinStep { optimizer, average, standing: self.header.course.clone() }),
        };
        Ok((standing, spec))
    }
}

impl Standing {
    /// At the beginning of a stage.
    pub(super) fn at_stage(stage: u32, network: Network, plan: &TrainingPlan, classes: usize) -> Self {
        Self {
            position: Position::start_of_stage(stage),
            network,
            best: Best::new(plan.selection.metric),
            epoch: EpochSoFar::new(classes),
            within: None,
        }
    }
}

/// A number as its bits: read back from decimal digits it may be its neighbour, and the run would not be the same.
pub(super) mod bits {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(in crate::training) fn serialize<S: Serializer>(number: &f64, to: S) -> Result<S::Ok, S::Error> {
        number.to_bits().serialize(to)
    }

    pub(in crate::training) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        u64::deserialize(from).map(f64::from_bits)
    }
}

/// Bytes as a tensor.
struct Part<'a> {
    bytes: &'a [u8],
    shape: [usize; 1],
}

impl<'a> Part<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, shape: [bytes.len()] }
    }
}

impl View for Part<'_> {
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
