//! `/v1/datasets/{id}/generate`: the sources of COVIDx, brought together in the background.

use std::path::PathBuf;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    dataset::{GenerateBy, Generation, Rules, SourceFolders},
    domain::DatasetId,
    http::{
        ApiError, AppState,
        answer::{Forbidden, Invalid, Malformed, NotFound},
        extract::{JsonBody, PathOf},
        imports::{self, Asked, Started},
    },
    service::{FieldError, Fields, JsonObject, into_result},
    store::{Dataset, Import},
};

/// The sources of a data set, each a folder below the server's import root as it is distributed; one at least.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct NewGeneration {
    /// covid-chestxray-dataset: `metadata.csv`, `images`.
    pub cohen: Option<String>,
    /// Figure 1: `metadata.csv`, `images`.
    pub fig1: Option<String>,
    /// Actualmed: `metadata.csv`, `images`.
    pub actmed: Option<String>,
    /// COVID-19 Radiography Database: a folder a class, such as `COVID`, with `COVID.metadata.xlsx` beside it.
    pub radiography: Option<String>,
    /// RSNA pneumonia challenge: `stage_2_detailed_class_info.csv`, `stage_2_train_labels.csv`, `stage_2_train_images`.
    pub rsna: Option<String>,
    /// Sections that take the place of those of the built-in rules, which are COVIDx V7A's.
    pub rules: Option<Rules>,
    /// In place of rules: a label file below the import root whose rows are matched with the images by name, for train.
    pub train_labels: Option<String>,
    /// The same for test.
    pub test_labels: Option<String>,
}

/// Starts the generation of a COVIDx-like data set from its sources: an import, whose place the answer names. Images whose rows the rules
/// leave out are counted in its `passed_over`, rows without an image are among its rejections.
#[utoipa::path(
    post, path = "/v1/datasets/{id}/generate", tag = "datasets",
    params(("id" = DatasetId, Path)),
    request_body = NewGeneration,
    responses((status = 202, description = "Started", body = Import), Malformed, Forbidden, NotFound, Invalid)
)]
pub async fn generate_dataset(
    State(state): State<AppState>,
    PathOf(id): PathOf<DatasetId>,
    JsonBody(body): JsonBody<JsonObject>,
) -> Result<Started, ApiError> {
    let dataset = super::find(&state, id).await?;
    let new = NewGeneration::read(body, &dataset)?;
    let path = new.told();
    imports::begin(&state, dataset, path, Asked::Sources(Box::new(new))).await
}

impl NewGeneration {
    fn read(body: JsonObject, dataset: &Dataset) -> Result<Self, ApiError> {
        let mut errors = Vec::new();
        let mut fields = Fields::new("", body, &mut errors);
        let new = Self {
            cohen: fields.optional("cohen"),
            fig1: fields.optional("fig1"),
            actmed: fields.optional("actmed"),
            radiography: fields.optional("radiography"),
            rsna: fields.optional("rsna"),
            rules: fields.optional::<JsonObject>("rules").and_then(|sections| {
                let rules = Rules::over(sections);
                fields.check(
                    rules.is_ok(),
                    "rules",
                    &rules.as_ref().err().map(ToString::to_string).unwrap_or_default(),
                );
                rules.ok()
            }),
            train_labels: fields.optional("train_labels"),
            test_labels: fields.optional("test_labels"),
        };
        let labels = new.train_labels.is_some() || new.test_labels.is_some();
        fields.check(!labels || new.rules.is_none(), "rules", "label files leave nothing to rules: name either");
        fields.finish();
        if errors.is_empty() {
            errors = new.problems(labels, dataset);
        }
        Ok(into_result(Some(new), errors)?)
    }

    fn problems(&self, labels: bool, dataset: &Dataset) -> Vec<FieldError> {
        let error = |pointer: &str, detail: String| FieldError { pointer: pointer.into(), detail };
        let mut errors = Vec::new();
        if self.folders().iter().all(|(_, folder)| folder.is_none()) {
            errors.push(error("", "name one source at least: cohen, fig1, actmed, radiography or rsna".into()));
        }
        if !labels {
            let rules = self.rules.clone().unwrap_or_default();
            errors.extend(rules.problems(&dataset.classes).into_iter().map(|problem| error("/rules", problem)));
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

    /// The folders as the import's row names them.
    fn told(&self) -> String {
        let named =
            self.folders().into_iter().filter_map(|(name, folder)| Some(format!("{name}={}", folder.as_ref()?)));
        named.collect::<Vec<_>>().join(" ")
    }

    /// With each path in its real place below the import root.
    pub(in crate::http) async fn resolved(self, state: &AppState) -> Result<Generation, ApiError> {
        let resolve = async |pointer: &str, path: Option<String>| -> Result<Option<PathBuf>, ApiError> {
            match path {
                Some(path) => imports::below_import_root(state, pointer, path).await.map(Some),
                None => Ok(None),
            }
        };
        let sources = SourceFolders {
            cohen: resolve("/cohen", self.cohen).await?,
            fig1: resolve("/fig1", self.fig1).await?,
            actmed: resolve("/actmed", self.actmed).await?,
            radiography: resolve("/radiography", self.radiography).await?,
            rsna: resolve("/rsna", self.rsna).await?,
        };
        let train = resolve("/train_labels", self.train_labels).await?;
        let test = resolve("/test_labels", self.test_labels).await?;
        let by = GenerateBy::of(train, test, self.rules.unwrap_or_default());
        Ok(Generation { sources, by })
    }
}
