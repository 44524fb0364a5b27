//! Imports of labelled radiographs from the server's import root, in the background.

use std::{collections::BTreeMap, path::PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Error, FieldError, Intake, Lifecycle, Limits, Stores};
use crate::{
    dataset::{
        self, ClassMapping, Generation, GenerationMethod, ImportRequest, ImportSource, LabelledFolder, Rules,
        SourceFolders,
    },
    domain::{ClassList, ImportStatus},
    store::{self, Dataset, Import, ImportFindings, StoreError},
};

/// Import of a folder.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NewImport {
    /// Path of a folder, relative to the server's import root: in the COVIDx layout, with NumPy arrays (`x_train_128.npy`,
    /// `y_train.npy`), or with one folder per class.
    pub path: String,
    /// Label file of the training images, relative to the folder; `train_split.txt`, else `train.txt` when absent.
    pub train_split: Option<String>,
    /// Label file of the validation images, relative to the folder; `validation_split.txt`, else `val_split.txt` or `val.txt` when absent.
    pub validation_split: Option<String>,
    /// Label file of the test images, relative to the folder; `test_split.txt`, else `test.txt` when absent.
    pub test_split: Option<String>,
    /// Class of the data set for a class name in the label files or folders, such as `{"positive": "COVID-19"}`; null leaves the images
    /// out. Names of the data set's classes need no entry.
    pub class_mapping: Option<BTreeMap<String, Option<String>>>,
}

/// Generation of a data set from its original sources, at least one. Each is a folder as it is distributed, relative to the server's
/// import root.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct NewGeneration {
    /// covid-chestxray-dataset: `metadata.csv`, `images`.
    pub cohen: Option<String>,
    /// Figure 1: `metadata.csv`, `images`.
    pub fig1: Option<String>,
    /// Actualmed: `metadata.csv`, `images`.
    pub actmed: Option<String>,
    /// COVID-19 Radiography Database: a folder per class, such as `COVID`, with `COVID.metadata.xlsx` next to it.
    pub radiography: Option<String>,
    /// RSNA pneumonia challenge: `stage_2_detailed_class_info.csv`, `stage_2_train_labels.csv`, `stage_2_train_images`.
    pub rsna: Option<String>,
    /// Sections that replace those of the built-in rules, which are COVIDx V7A's.
    pub rules: Option<Rules>,
    /// Label file for train instead of rules, relative to the import root; its rows are matched with the images by name.
    pub train_labels: Option<String>,
    /// Label file for test instead of rules.
    pub test_labels: Option<String>,
}

/// Source of an import, as it is stored until the import ends.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub enum ImportSpec {
    /// A folder; the only variant with a `path`.
    Folder(NewImport),
    /// The original sources of COVIDx.
    Sources(Box<NewGeneration>),
}

/// Use cases about imports.
#[derive(Clone)]
pub struct Imports {
    /// Store of the radiographs.
    pub stores: Stores,
    /// The import root and the hash of patient ids.
    pub intake: Intake,
    /// Limits on files and images.
    pub limits: Limits,
    /// Background work.
    pub lifecycle: Lifecycle,
}

impl Imports {
    /// Starts an import in the background. At a shutdown it stops between two images and resumes at the next start.
    ///
    /// # Errors
    /// [`Error::Forbidden`] without an import root, [`Error::Invalid`] where a path is not below it.
    pub async fn start(&self, dataset: Dataset, spec: ImportSpec) -> Result<Import, Error> {
        let import = Import::started(dataset.id, spec.description());
        let stored = serde_json::to_value(&spec).map_err(Error::internal)?;
        let request = self.request(dataset, spec).await?;
        store::imports::create(&self.stores.db, &import, Some(&stored)).await?;
        self.spawn(import.clone(), request);
        Ok(import)
    }

    /// Resumes the imports that an earlier process did not finish; files that are imported already are skipped.
    ///
    /// # Errors
    /// When the database fails. An import that cannot resume is recorded as failed.
    pub async fn resume(&self) -> Result<(), StoreError> {
        for (import, spec) in store::imports::interrupted(&self.stores.db).await? {
            let id = import.id;
            match self.stored_request(&import, spec).await {
                Ok(request) => {
                    tracing::info!(%id, "import resumes");
                    self.spawn(import, request);
                }
                Err(error) => {
                    tracing::warn!(%id, %error, "import cannot resume");
                    let failed = Import {
                        status: ImportStatus::Failed,
                        error: Some(format!("interrupted, and it cannot resume: {error}")),
                        finished_at: Some(Timestamp::now()),
                        ..import
                    };
                    store::imports::update(&self.stores.db, &failed, &ImportFindings::default()).await?;
                }
            }
        }
        Ok(())
    }

    async fn stored_request(&self, import: &Import, spec: serde_json::Value) -> Result<ImportRequest, Error> {
        let spec: ImportSpec = serde_json::from_value(spec).map_err(Error::internal)?;
        let dataset = store::datasets::get(&self.stores.db, import.dataset_id).await?;
        self.request(dataset.ok_or(Error::NotFound("data set"))?, spec).await
    }

    async fn request(&self, dataset: Dataset, spec: ImportSpec) -> Result<ImportRequest, Error> {
        let from = match spec {
            ImportSpec::Folder(NewImport { path, train_split, validation_split, test_split, class_mapping }) => {
                let class_mapping = class_mapping.unwrap_or_default();
                let errors = validate_mapping(&class_mapping, &dataset.classes);
                if !errors.is_empty() {
                    return Err(Error::Invalid(errors));
                }
                let root = self.resolve("/path", path).await?;
                ImportSource::Folder(LabelledFolder { root, train_split, validation_split, test_split, class_mapping })
            }
            ImportSpec::Sources(new) => {
                let errors = new.validate(&dataset);
                if !errors.is_empty() {
                    return Err(Error::Invalid(errors));
                }
                ImportSource::Sources(self.generation(*new).await?)
            }
        };
        Ok(ImportRequest {
            dataset,
            from,
            limits: self.limits.image(),
            max_bytes: self.limits.max_upload_bytes as u64,
            patient_ids: self.intake.patient_ids.clone(),
            resumable: true,
        })
    }

    async fn generation(&self, new: NewGeneration) -> Result<Generation, Error> {
        let resolve = async |pointer: &str, path: Option<String>| -> Result<Option<PathBuf>, Error> {
            match path {
                Some(path) => self.resolve(pointer, path).await.map(Some),
                None => Ok(None),
            }
        };
        let sources = SourceFolders {
            cohen: resolve("/cohen", new.cohen).await?,
            fig1: resolve("/fig1", new.fig1).await?,
            actmed: resolve("/actmed", new.actmed).await?,
            radiography: resolve("/radiography", new.radiography).await?,
            rsna: resolve("/rsna", new.rsna).await?,
        };
        let train = resolve("/train_labels", new.train_labels).await?;
        let test = resolve("/test_labels", new.test_labels).await?;
        Ok(Generation { sources, by: GenerationMethod::new(train, test, new.rules.unwrap_or_default()) })
    }

    /// The real path of `path` below the import root; `pointer` names its field.
    async fn resolve(&self, pointer: &str, path: String) -> Result<PathBuf, Error> {
        let disabled = || Error::Forbidden("imports are disabled: the operator has not set THORAX_IMPORT_ROOT".into());
        let root = self.intake.import_root.clone().ok_or_else(disabled)?;
        let resolved = tokio::task::spawn_blocking(move || dataset::resolve_below(&root, &path)).await?;
        resolved.map_err(|error| Error::invalid(pointer, error.to_string()))
    }

    fn spawn(&self, import: Import, request: ImportRequest) {
        let Self { stores: Stores { db, blobs, .. }, lifecycle, .. } = self.clone();
        self.lifecycle.tasks.spawn(async move {
            let id = import.id;
            match dataset::import(&db, &blobs, &request, import, &lifecycle.shutdown, &mut |_| {}).await {
                Ok(import) => {
                    tracing::info!(%id, import.created, import.rejected, status = %import.status, "import ended")
                }
                Err(error) => tracing::error!(%id, %error, "import failed"),
            }
        });
    }
}

/// The entries of a mapping whose class the data set does not have.
fn validate_mapping(mapping: &ClassMapping, classes: &ClassList) -> Vec<FieldError> {
    let unknown = mapping.iter().filter_map(|(name, target)| {
        let target = target.as_deref().filter(|target| classes.index_of(target).is_none())?;
        let pointer = format!("/class_mapping/{}", name.replace('~', "~0").replace('/', "~1"));
        Some(FieldError::new(&pointer, dataset::unknown_target(name, target, classes)))
    });
    unknown.collect()
}

impl ImportSpec {
    /// The folders as the import's row names them.
    fn description(&self) -> String {
        match self {
            Self::Folder(new) => new.path.clone(),
            Self::Sources(new) => {
                let named = new.folders().into_iter();
                let named = named.filter_map(|(name, folder)| Some(format!("{name}={}", folder.as_ref()?)));
                named.collect::<Vec<_>>().join(" ")
            }
        }
    }
}

impl NewGeneration {
    /// Everything wrong with the request, except with its paths.
    fn validate(&self, dataset: &Dataset) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let has_labels = self.train_labels.is_some() || self.test_labels.is_some();
        if has_labels && self.rules.is_some() {
            errors.push(FieldError::new("/rules", "label files replace the rules: give one or the other"));
        }
        if self.folders().iter().all(|(_, folder)| folder.is_none()) {
            errors.push(FieldError::new("", "give at least one source: cohen, fig1, actmed, radiography or rsna"));
        }
        if !has_labels {
            let rules = self.rules.clone().unwrap_or_default();
            let problems = rules.validate(&dataset.classes);
            errors.extend(problems.into_iter().map(|problem| FieldError::new("/rules", problem)));
        }
        errors
    }

    fn folders(&self) -> [(&'static str, &Option<String>); 5] {
        [
            ("cohen", &self.cohen),
            ("fig1", &self.fig1),
            ("actmed", &self.actmed),
            ("radiography", &self.radiography),
            ("rsna", &self.rsna),
        ]
    }
}
