//! Images of the audit and the attributes and features of theirs that are unrelated to pathology.

use std::collections::{BTreeSet, HashMap};

use super::{
    Association, AuditInput, Shortcut,
    association::associate,
    forest::Columns,
    shortcut::{Features, Samples},
};
use crate::domain::{DisjointSet, RadiographId, Split};

/// Side of the thumbnail in the `thumbnail` baseline, in pixels.
const THUMBNAIL_SIDE: usize = 32;

/// A radiograph with its known attributes.
#[derive(Clone, Debug)]
pub struct AuditImage {
    /// Identifier.
    pub id: RadiographId,
    /// File name as uploaded.
    pub file_name: String,
    /// Index into the class list; `None` if unlabelled.
    pub class: Option<usize>,
    /// Split.
    pub split: Option<Split>,
    /// Stored patient id (keyed hash).
    pub patient: Option<String>,
    /// Source named by the split file or upload.
    pub source: Option<String>,
    /// Collection in which the image was published.
    pub collection: Option<String>,
    /// Projection.
    pub view: Option<String>,
    /// `female` or `male`.
    pub sex: Option<String>,
    /// Age in whole years.
    pub age_years: Option<u32>,
    /// Width and height of the stored image in pixels.
    pub size: (u32, u32),
    /// Format of the stored file.
    pub format: String,
    /// Size of the stored file in bytes.
    pub byte_length: u64,
    /// Width and height of the published file in pixels.
    pub original_size: Option<(u32, u32)>,
    /// Pixel mode of the published file.
    pub original_mode: Option<String>,
    /// Format of the published file.
    pub original_format: Option<String>,
    /// 64 x 64 grey levels, if the image could be read.
    pub plane: Option<Vec<u8>>,
}

/// Set of near-duplicate images.
#[derive(Clone, Debug)]
pub struct DuplicateSet {
    /// Two or more images.
    pub members: Vec<RadiographId>,
    /// Lowest correlation that linked two members.
    pub likeness: f64,
    /// True if the members are identical at 64 x 64 pixels.
    pub identical: bool,
    /// True if a member is a mirror image of another.
    pub mirrored: bool,
}

/// The labelled images, column by column.
pub(super) struct LabelledImages<'a> {
    images: Vec<&'a AuditImage>,
    class: Vec<usize>,
    /// Group number: images of one patient and near-duplicates share it.
    patient: Vec<usize>,
    split: Vec<Option<Split>>,
}

impl<'a> LabelledImages<'a> {
    pub(super) fn of(input: &'a AuditInput) -> Self {
        let groups = patient_groups(input);
        let with_class = |(image, patient): (&'a AuditImage, usize)| image.class.map(|class| (image, class, patient));
        let images: Vec<_> = input.images.iter().zip(groups).filter_map(with_class).collect();
        Self {
            class: images.iter().map(|(_, class, _)| *class).collect(),
            patient: images.iter().map(|(_, _, patient)| *patient).collect(),
            split: images.iter().map(|(image, _, _)| image.split).collect(),
            images: images.into_iter().map(|(image, _, _)| image).collect(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.images.len()
    }

    /// Number of classes with images.
    pub(super) fn classes(&self) -> usize {
        self.class.iter().collect::<BTreeSet<_>>().len()
    }

    /// Associations of the class with each attribute that has more than one value.
    pub(super) fn associations(&self, names: &[String]) -> Vec<Association> {
        let of = |(name, value): &Attribute| associate(name, &self.values(*value), &self.class, &self.patient, names);
        ATTRIBUTES.iter().filter_map(of).collect()
    }

    /// Shortcut baselines for all features with known values, best first.
    pub(super) fn shortcuts(&self) -> Vec<Shortcut> {
        let samples = Samples { class: &self.class, patient: &self.patient, split: &self.split };
        let measure =
            |name, description, features: Features<'_>| Shortcut::measure(name, description, &features, &samples);
        let mut shortcuts = Vec::new();
        let categories: [(_, _, AttributeValue); 2] = [
            ("source", "the source", |image| image.source.clone()),
            ("collection", "the collection in which it was published", |image| image.collection.clone()),
        ];
        for (name, description, value) in categories {
            let values = self.values(value);
            if values.iter().any(Option::is_some) {
                shortcuts.push(measure(name, description, Features::Category(&values)));
            }
        }
        let file = "size in bytes, bytes per pixel, width, height, aspect ratio and format of the stored file";
        shortcuts.push(measure("file", file, Features::Numeric(self.file())));
        if self.images.iter().any(|image| image.original_size.is_some() || image.original_format.is_some()) {
            let original = "width, height, aspect ratio, mode and format of the published file";
            shortcuts.push(measure("original", original, Features::Numeric(self.original())));
        }
        if self.images.iter().all(|image| image.plane.is_some()) {
            let thumbnail = "a 32 × 32 thumbnail";
            shortcuts.push(measure("thumbnail", thumbnail, Features::Numeric(self.thumbnail())));
        }
        let accuracy = |shortcut: &Shortcut| shortcut.cross_validated.accuracy.value;
        shortcuts.sort_by(|a, b| accuracy(b).total_cmp(&accuracy(a)));
        shortcuts
    }

    fn values(&self, of: impl Fn(&AuditImage) -> Option<String>) -> Vec<Option<String>> {
        self.images.iter().map(|image| of(image)).collect()
    }

    fn ranked(&self, of: impl Fn(&AuditImage) -> f64) -> Vec<u8> {
        Columns::ranked(&self.images.iter().map(|image| of(image)).collect::<Vec<_>>())
    }

    /// Text values in alphabetical order; unknown values first.
    fn coded(&self, of: impl Fn(&AuditImage) -> Option<String>) -> Vec<u8> {
        let values = self.values(of);
        let known: BTreeSet<&str> = values.iter().flatten().map(String::as_str).collect();
        let code = |value: &Option<String>| match value {
            Some(value) => 1.0 + known.range(..value.as_str()).count() as f64,
            None => 0.0,
        };
        Columns::ranked(&values.iter().map(code).collect::<Vec<_>>())
    }

    fn file(&self) -> Columns {
        let pixels = |image: &AuditImage| f64::from(image.size.0) * f64::from(image.size.1);
        Columns(vec![
            self.ranked(|image| image.byte_length as f64),
            self.ranked(|image| image.byte_length as f64 / pixels(image)),
            self.ranked(|image| image.size.0.into()),
            self.ranked(|image| image.size.1.into()),
            self.ranked(|image| f64::from(image.size.0) / f64::from(image.size.1)),
            self.coded(|image| Some(image.format.clone())),
        ])
    }

    fn original(&self) -> Columns {
        let size = |image: &AuditImage| image.original_size.map_or((0.0, 0.0), |(w, h)| (w.into(), h.into()));
        Columns(vec![
            self.ranked(|image| size(image).0),
            self.ranked(|image| size(image).1),
            self.ranked(|image| if size(image).1 > 0.0 { size(image).0 / size(image).1 } else { 0.0 }),
            self.coded(|image| image.original_mode.clone()),
            self.coded(|image| image.original_format.clone()),
        ])
    }

    fn thumbnail(&self) -> Columns {
        let thumbnails: Vec<Vec<u8>> =
            self.images.iter().filter_map(|image| image.plane.as_deref()).map(halved).collect();
        let pixel = |at| thumbnails.iter().map(|thumbnail| thumbnail[at]).collect();
        Columns((0..THUMBNAIL_SIDE * THUMBNAIL_SIDE).map(pixel).collect())
    }
}

/// Group number of each image: images of one patient and near-duplicates share it.
fn patient_groups(input: &AuditInput) -> Vec<usize> {
    let mut sets = DisjointSet::new(input.images.len());
    let (mut by_patient, mut by_id) = (HashMap::new(), HashMap::new());
    for (at, image) in input.images.iter().enumerate() {
        by_id.insert(image.id, at);
        if let Some(patient) = &image.patient {
            sets.union(*by_patient.entry(patient).or_insert(at), at);
        }
    }
    for group in &input.groups {
        let members: Vec<usize> = group.members.iter().filter_map(|id| by_id.get(id).copied()).collect();
        members.windows(2).for_each(|pair| sets.union(pair[0], pair[1]));
    }
    (0..input.images.len()).map(|at| sets.find(at)).collect()
}

/// Downsamples by two: means of 2 x 2 pixels.
fn halved(plane: &[u8]) -> Vec<u8> {
    let side = 2 * THUMBNAIL_SIDE;
    let mean = |at: usize| {
        let corner = at / THUMBNAIL_SIDE * 2 * side + at % THUMBNAIL_SIDE * 2;
        let square = [corner, corner + 1, corner + side, corner + side + 1];
        (square.iter().map(|at| u32::from(plane[*at])).sum::<u32>() / 4) as u8
    };
    (0..THUMBNAIL_SIDE * THUMBNAIL_SIDE).map(mean).collect()
}

/// Function that returns the value of an attribute, or its band, for an image.
type AttributeValue = fn(&AuditImage) -> Option<String>;

/// Name and value function of an attribute.
type Attribute = (&'static str, AttributeValue);

const ATTRIBUTES: [Attribute; 11] = [
    ("source", |image| image.source.clone()),
    ("collection", |image| image.collection.clone()),
    ("view", |image| image.view.clone()),
    ("sex", |image| image.sex.clone()),
    ("age", |image| image.age_years.map(age_band)),
    ("size", |image| Some(size_band(image.size))),
    ("file size", |image| Some(bytes_band(image.byte_length))),
    ("format", |image| Some(image.format.clone())),
    ("original size", |image| image.original_size.map(size_band)),
    ("original mode", |image| image.original_mode.clone()),
    ("original format", |image| image.original_format.clone()),
];

/// Band of an age in years.
pub(in crate::evaluation) fn age_band(years: u32) -> String {
    let band = match years {
        0..18 => "0 to 17",
        18..40 => "18 to 39",
        40..60 => "40 to 59",
        60..80 => "60 to 79",
        _ => "80 and more",
    };
    band.into()
}

/// Band of the longer side by powers of two. Numbers are padded so that the bands sort numerically.
pub(in crate::evaluation) fn size_band((width, height): (u32, u32)) -> String {
    let longest = width.max(height).max(1);
    let low = 1 << longest.ilog2();
    format!("{low:4} to {:4} px", 2 * low - 1)
}

fn bytes_band(bytes: u64) -> String {
    let low = 1_u64 << (bytes / 1000).max(1).ilog2();
    if bytes < 1000 { "   below 1 kB".into() } else { format!("{low:5} to {:5} kB", 2 * low - 1) }
}
