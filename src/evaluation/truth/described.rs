//! Images as a report sees them, and what about them is no disease.

use std::collections::{BTreeSet, HashMap};

use super::{
    Association, Examined, Shortcut,
    association::associate,
    forest::Columns,
    shortcut::{Examples, Seen},
};
use crate::domain::{DisjointSet, RadiographId, Split};

/// Columns and rows of the thumbnail from which the class is predicted.
const THUMBNAIL_SIDE: usize = 32;

/// A radiograph with what is known of it.
#[derive(Clone, Debug)]
pub struct Described {
    /// Identifier.
    pub id: RadiographId,
    /// As uploaded.
    pub file_name: String,
    /// Place in the data set's classes.
    pub class: Option<usize>,
    /// Split.
    pub split: Option<Split>,
    /// As stored.
    pub patient: Option<String>,
    /// Origin as its split file or upload says.
    pub source: Option<String>,
    /// Where it was published.
    pub collection: Option<String>,
    /// Projection.
    pub view: Option<String>,
    /// `female` or `male`.
    pub sex: Option<String>,
    /// In whole years.
    pub age_years: Option<u32>,
    /// Columns and rows of the stored image.
    pub size: (u32, u32),
    /// Its format.
    pub format: String,
    /// Its bytes.
    pub byte_length: u64,
    /// Columns and rows of the file that was published.
    pub original_size: Option<(u32, u32)>,
    /// Its kind of pixels.
    pub original_mode: Option<String>,
    /// Its format.
    pub original_format: Option<String>,
    /// A square of 64 x 64 grey bytes, if there is one.
    pub plane: Option<Vec<u8>>,
}

/// Images that look the same.
#[derive(Clone, Debug)]
pub struct LooksAlike {
    /// Two or more.
    pub members: Vec<RadiographId>,
    /// The lowest correlation that joined two of them.
    pub likeness: f64,
    /// Their planes are the same byte for byte.
    pub identical: bool,
    /// A member is another one mirrored.
    pub mirrored: bool,
}

/// The images that have a class.
pub(super) struct Labelled<'a> {
    images: Vec<&'a Described>,
    class: Vec<usize>,
    /// Images of one patient, and images that look the same, have the same number.
    patient: Vec<usize>,
    split: Vec<Option<Split>>,
}

impl<'a> Labelled<'a> {
    pub(super) fn of(examined: &'a Examined) -> Self {
        let leader = together(examined);
        let with_class = |(image, patient): (&'a Described, usize)| image.class.map(|class| (image, class, patient));
        let images: Vec<_> = examined.images.iter().zip(leader).filter_map(with_class).collect();
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

    /// How many classes have images.
    pub(super) fn classes(&self) -> usize {
        self.class.iter().collect::<BTreeSet<_>>().len()
    }

    /// Class by each attribute that has more than one value.
    pub(super) fn associations(&self, names: &[String]) -> Vec<Association> {
        let of = |(name, value): &Attribute| associate(name, &self.values(*value), &self.class, &self.patient, names);
        ATTRIBUTES.iter().filter_map(of).collect()
    }

    /// Those of which anything is known, the best first.
    pub(super) fn shortcuts(&self) -> Vec<Shortcut> {
        let examples = Examples { class: &self.class, patient: &self.patient, split: &self.split };
        let measure = |name, features, seen: Seen<'_>| Shortcut::measure(name, features, &seen, &examples);
        let mut shortcuts = Vec::new();
        let categories: [(_, _, Value); 2] = [
            ("source", "the source", |image| image.source.clone()),
            ("collection", "where it was published", |image| image.collection.clone()),
        ];
        for (name, features, value) in categories {
            let values = self.values(value);
            if values.iter().any(Option::is_some) {
                shortcuts.push(measure(name, features, Seen::Category(&values)));
            }
        }
        let file = "bytes, bytes a pixel, width, height, shape and format of the stored file";
        shortcuts.push(measure("file", file, Seen::Features(self.file())));
        if self.images.iter().any(|image| image.original_size.is_some() || image.original_format.is_some()) {
            let original = "width, height, shape, mode and format of the file as it was published";
            shortcuts.push(measure("original", original, Seen::Features(self.original())));
        }
        if self.images.iter().all(|image| image.plane.is_some()) {
            let thumbnail = "a 32 × 32 thumbnail";
            shortcuts.push(measure("thumbnail", thumbnail, Seen::Features(self.thumbnail())));
        }
        let accuracy = |shortcut: &Shortcut| shortcut.cross_validated.accuracy.value;
        shortcuts.sort_by(|a, b| accuracy(b).total_cmp(&accuracy(a)));
        shortcuts
    }

    fn values(&self, of: impl Fn(&Described) -> Option<String>) -> Vec<Option<String>> {
        self.images.iter().map(|image| of(image)).collect()
    }

    fn ranked(&self, of: impl Fn(&Described) -> f64) -> Vec<u8> {
        Columns::ranked(&self.images.iter().map(|image| of(image)).collect::<Vec<_>>())
    }

    /// Words in the order of the alphabet; the unknown come first.
    fn coded(&self, of: impl Fn(&Described) -> Option<String>) -> Vec<u8> {
        let values = self.values(of);
        let known: BTreeSet<&str> = values.iter().flatten().map(String::as_str).collect();
        let code = |value: &Option<String>| match value {
            Some(value) => 1.0 + known.range(..value.as_str()).count() as f64,
            None => 0.0,
        };
        Columns::ranked(&values.iter().map(code).collect::<Vec<_>>())
    }

    fn file(&self) -> Columns {
        let pixels = |image: &Described| f64::from(image.size.0) * f64::from(image.size.1);
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
        let size = |image: &Described| image.original_size.map_or((0.0, 0.0), |(w, h)| (w.into(), h.into()));
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

/// For each image a number that it shares with the images of its patient and with those that look the same.
fn together(examined: &Examined) -> Vec<usize> {
    let mut together = DisjointSet::new(examined.images.len());
    let (mut by_patient, mut by_id) = (HashMap::new(), HashMap::new());
    for (at, image) in examined.images.iter().enumerate() {
        by_id.insert(image.id, at);
        if let Some(patient) = &image.patient {
            together.union(*by_patient.entry(patient).or_insert(at), at);
        }
    }
    for group in &examined.groups {
        let places: Vec<usize> = group.members.iter().filter_map(|id| by_id.get(id).copied()).collect();
        places.windows(2).for_each(|pair| together.union(pair[0], pair[1]));
    }
    (0..examined.images.len()).map(|at| together.find(at)).collect()
}

/// Means of 2 x 2 pixels.
fn halved(plane: &[u8]) -> Vec<u8> {
    let side = 2 * THUMBNAIL_SIDE;
    let mean = |at: usize| {
        let corner = at / THUMBNAIL_SIDE * 2 * side + at % THUMBNAIL_SIDE * 2;
        let square = [corner, corner + 1, corner + side, corner + side + 1];
        (square.iter().map(|at| u32::from(plane[*at])).sum::<u32>() / 4) as u8
    };
    (0..THUMBNAIL_SIDE * THUMBNAIL_SIDE).map(mean).collect()
}

/// Of an attribute: what it is for an image, or the band it is in.
type Value = fn(&Described) -> Option<String>;

/// An attribute by its name.
type Attribute = (&'static str, Value);

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

fn age_band(years: u32) -> String {
    let band = match years {
        0..18 => "0 to 17",
        18..40 => "18 to 39",
        40..60 => "40 to 59",
        60..80 => "60 to 79",
        _ => "80 and more",
    };
    band.into()
}

/// By the longer side, in steps of two; figures are padded, so that the bands stand in their order.
fn size_band((width, height): (u32, u32)) -> String {
    let longest = width.max(height).max(1);
    let low = 1 << longest.ilog2();
    format!("{low:4} to {:4} px", 2 * low - 1)
}

fn bytes_band(bytes: u64) -> String {
    let low = 1_u64 << (bytes / 1000).max(1).ilog2();
    if bytes < 1000 { "   below 1 kB".into() } else { format!("{low:5} to {:5} kB", 2 * low - 1) }
}
