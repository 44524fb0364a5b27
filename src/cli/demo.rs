//! `thorax demo`: generates synthetic radiographs, trains a small network on them and runs a server.

use clap::Args;

use super::{
    CliError,
    phantoms::{Patients, SOURCE},
    serve::announce_and_run,
};
use crate::{
    app::{DataFolder, Server},
    config::{DataConfig, ServerConfig},
    dataset::{self, NewRadiograph},
    domain::{PlanOverrides, RunStatus, Scope, Stage, Step, recipe},
    imaging::{
        self,
        phantom::{self, Phantom},
    },
    store::{self, Dataset, Page, Run},
};

/// Default data folder; never the default folder of real data.
const DEMO_FOLDER: &str = "data-demo";
const DATASET: &str = "demo-phantoms";
const RECIPE: &str = "simple-cnn";
const IMAGES: u32 = 300;
const IMAGE_SIDE: u32 = 256;
const SEED: u32 = 1;

#[derive(Args, Debug)]
pub(super) struct DemoArgs {
    #[command(flatten)]
    server: ServerConfig,
}

pub(super) async fn run(args: &DemoArgs) -> Result<(), CliError> {
    let server = Server::start(&args.server, DEMO_FOLDER).await?;
    refuse_real_data(server.folder()).await?;
    if !has_run(server.folder()).await? {
        eprintln!("Generating {IMAGES} synthetic radiographs; then a small network trains on them for about a minute.");
        let dataset = generate(server.folder(), &args.server.data).await?;
        queue_run(server.folder(), &dataset).await?;
    }
    tell_when_ready_to_predict(&server);
    announce_and_run(server).await
}

/// Says when the model is trained and loaded. Before, the server is ready for everything but predictions.
fn tell_when_ready_to_predict(server: &Server) {
    let (url, loaded) = (server.url(), server.model_loaded());
    tokio::spawn(async move {
        loaded.await;
        eprintln!("The demo's model is loaded: predictions are ready at {url}.");
    });
}

/// Refuses a data folder with other data sets: synthetic and real radiographs must not share one.
async fn refuse_real_data(folder: &DataFolder) -> Result<(), CliError> {
    let datasets = store::datasets::list(&folder.stores.db, &Page { limit: 2, after: None }).await?;
    match datasets.iter().find(|dataset| dataset.name != DATASET) {
        Some(other) => Err(CliError::NotTheDemo { folder: folder.path.clone(), dataset: other.name.clone() }),
        None => Ok(()),
    }
}

/// True if a run has succeeded, or is queued and will train once the server runs.
async fn has_run(folder: &DataFolder) -> Result<bool, CliError> {
    for status in [RunStatus::Succeeded, RunStatus::Queued] {
        if !store::runs::list(&folder.stores.db, Some(status), &Page { limit: 1, after: None }).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Generates the data set. Adds only missing images, so that an interrupted demo can be completed.
async fn generate(folder: &DataFolder, config: &DataConfig) -> Result<Dataset, CliError> {
    let patient_ids = folder.patient_ids(config.patient_key.as_deref()).await?;
    let description = "SYNTHETIC: generated phantoms, not patients; of no use beyond the demo".to_owned();
    let new = Dataset { description: Some(description), synthetic: true, ..Dataset::new(DATASET) };
    let dataset = store::datasets::find_or_create(&folder.stores.db, new).await?;
    let limits = imaging::Limits { max_pixels: config.max_pixels };
    let mut patients = Patients::default();
    let series = || phantom::series(SEED.into(), IMAGES, IMAGE_SIDE).collect::<Vec<_>>();
    let phantoms = tokio::task::spawn_blocking(series).await.map_err(std::io::Error::other)?;
    for phantom in phantoms {
        let split = patients.split(&phantom);
        let Phantom { file_name, patient_id, label, image } = phantom;
        let new = NewRadiograph {
            bytes: phantom::encode_png(&image).into(),
            file_name: Some(file_name),
            label: Some(label.into()),
            patient_id: Some(patient_id),
            source: Some(SOURCE.into()),
            view: None,
            split: Some(split),
        };
        dataset::add(&folder.stores.db, &folder.stores.blobs, &dataset, new, &limits, &patient_ids).await?;
    }
    Ok(dataset)
}

/// Queues a short training run of the small network.
async fn queue_run(folder: &DataFolder, dataset: &Dataset) -> Result<(), CliError> {
    let stages = vec![Stage { image_size: 64, steps: vec![Step::new(Scope::All, 1e-3, 12)] }];
    let base = recipe(RECIPE).expect("a built-in recipe").plan;
    let run = Run {
        name: Some("demo".into()),
        recipe: Some(RECIPE.into()),
        synthetic: true,
        ..Run::queued(
            dataset.id,
            store::datasets::fingerprint(&folder.stores.db, dataset.id).await?,
            base.with(PlanOverrides { stages: Some(stages), ..PlanOverrides::default() }),
            SEED,
        )
    };
    Ok(store::runs::create(&folder.stores.db, &run).await?)
}
