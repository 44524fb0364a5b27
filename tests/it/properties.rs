//! Properties that hold for generated inputs: plans, schedules, splits by patient, label files, run states, disjoint sets.
//!
//! A failure prints its smallest input. No regression files are written: turn that input into an ordinary test next to the code.
//! `PROPTEST_CASES` sets the number of inputs, 256 by default.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use proptest::{collection::vec, option, prelude::*, sample::select};
use thorax::{
    dataset::{
        assign,
        covidx::{self, Row},
        split_off_validation,
    },
    domain::{
        Architecture, Augmentation, BatchIndex, ClassList, ClassWeights, DatasetId, DisjointSet, EarlyStopping,
        InitialWeights, Optimizer, PlanOverrides, RadiographId, RangeTest, RunAction, RunStatus, Sampling, Schedule,
        Scope, Selection, SelectionMetric, Sha256, Split, Stage, Step, TrainingPlan, WeightAveraging,
    },
    store::Radiograph,
};

fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

// Plans

/// A number with six decimal places. serde_json reads numbers of more than 15 digits with an error of up to one unit in the last place.
fn decimal(range: impl Strategy<Value = f64>) -> impl Strategy<Value = f64> {
    range.prop_map(|value| (value * 1e6).round() / 1e6)
}

fn schedule() -> impl Strategy<Value = Schedule> {
    prop_oneof![
        Just(Schedule::Constant),
        decimal(0.0..=1.0).prop_map(|final_fraction| Schedule::Cosine { final_fraction }),
        (decimal(0.001..0.999), decimal(1.0..1e5), decimal(1.0..1e5)).prop_map(
            |(warm_up_fraction, start_divisor, final_divisor)| {
                Schedule::OneCycle { warm_up_fraction, start_divisor, final_divisor }
            }
        ),
        (decimal(1e-3..=1.0), 1..50u32).prop_map(|(factor, epochs)| Schedule::Step { factor, epochs }),
    ]
}

fn early_stopping() -> impl Strategy<Value = EarlyStopping> {
    (1..=1000u32, decimal(0.0..1.0)).prop_map(|(patience, min_delta)| EarlyStopping { patience, min_delta })
}

fn range_test() -> impl Strategy<Value = RangeTest> {
    (decimal(1e-6..0.09), decimal(0.1..=1.0), 20..=1000u32).prop_map(|(from, to, batches)| RangeTest {
        from,
        to,
        batches,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let scope = select(vec![Scope::Head, Scope::All]);
    let (rate, decay) = (decimal(1e-6..=1.0), decimal(0.01..=1.0));
    (scope, rate, 1..=1000u32, schedule(), decay, option::of(early_stopping()), option::of(range_test())).prop_map(
        |(scope, learning_rate, epochs, schedule, decay, early_stopping, range_test)| Step {
            scope,
            learning_rate,
            epochs,
            schedule,
            layer_decay: if scope == Scope::Head { 1.0 } else { decay },
            early_stopping,
            range_test,
        },
    )
}

fn stages() -> impl Strategy<Value = Vec<Stage>> {
    let stage = (32..=1024u32, vec(step(), 1..4)).prop_map(|(image_size, steps)| Stage { image_size, steps });
    vec(stage, 1..4)
}

fn augmentation() -> impl Strategy<Value = Augmentation> {
    let half = || decimal(0.0..=0.5);
    (decimal(0.0..=180.0), half(), half(), decimal(0.0..=0.9), half(), any::<bool>(), any::<bool>()).prop_map(
        |(rotation_degrees, translation, zoom, contrast, brightness, horizontal_flip, vertical_flip)| Augmentation {
            rotation_degrees,
            translation,
            zoom,
            contrast,
            brightness,
            horizontal_flip,
            vertical_flip,
        },
    )
}

fn selection() -> impl Strategy<Value = Selection> {
    let metric = select(vec![SelectionMetric::Accuracy, SelectionMetric::MacroF1, SelectionMetric::Loss]);
    (select(vec![Split::Validation, Split::Test]), metric).prop_map(|(split, metric)| Selection { split, metric })
}

/// Overrides whose values are all within their limits, each field absent half of the time.
fn overrides() -> impl Strategy<Value = PlanOverrides> {
    let architecture = option::of(Just(Architecture::ResNet50));
    let initial_weights = option::of(select(vec![InitialWeights::ImageNet, InitialWeights::Random]));
    let class_weights = option::of(select(vec![ClassWeights::None, ClassWeights::Balanced]));
    let sampling = option::of(select(vec![Sampling::Shuffle, Sampling::Balanced]));
    let minutes = decimal(0.01..=1440.0);
    let averaging = option::of(decimal(0.001..0.999).prop_map(|decay| WeightAveraging { decay }));
    (
        (architecture, initial_weights, option::of(2..=512u32), option::of(Just(Optimizer::Adam))),
        (option::of(decimal(0.0..0.999)), option::of(selection()), option::of(minutes), class_weights, sampling),
        (option::of(decimal(0.0..=0.5)), option::of(decimal(0.01..=10.0)), option::of(augmentation()), averaging),
        (option::of(early_stopping()), option::of(stages())),
    )
        .prop_map(|(network, training, images, rules)| PlanOverrides {
            architecture: network.0,
            initial_weights: network.1,
            batch_size: network.2,
            optimizer: network.3,
            dropout: training.0,
            selection: training.1,
            checkpoint_minutes: training.2,
            class_weights: training.3,
            sampling: training.4,
            label_smoothing: images.0,
            mixup: images.1,
            augmentation: images.2,
            weight_averaging: images.3,
            early_stopping: rules.0,
            stages: rules.1,
        })
}

/// A valid plan: a recipe with overrides.
fn plan() -> impl Strategy<Value = TrainingPlan> {
    overrides().prop_map(|overrides| recipe_plan().with(overrides))
}

fn recipe_plan() -> TrainingPlan {
    thorax::domain::recipe("covid-resnet").unwrap().plan
}

/// Numbers, most of them outside the limits of a plan's fields.
fn wild() -> impl Strategy<Value = f64> {
    prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(-0.0), -2.0..2.0, -1e9..1e9]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_plan_with_values_within_the_limits_is_valid(plan in plan()) {
        prop_assert_eq!(plan.validate(), []);
    }

    #[test]
    fn the_same_overrides_twice_change_nothing_more(plan in plan(), overrides in overrides()) {
        let once = plan.with(overrides.clone());
        prop_assert_eq!(once.clone().with(overrides), once);
    }

    #[test]
    fn overrides_change_only_the_fields_that_they_name(plan in plan(), overrides in overrides()) {
        let before = serde_json::to_value(&plan).unwrap();
        let named = serde_json::to_value(&overrides).unwrap();
        let after = serde_json::to_value(plan.with(overrides)).unwrap();
        for (field, value) in after.as_object().unwrap() {
            let expected = if named[field].is_null() { &before[field] } else { &named[field] };
            prop_assert_eq!(value, expected, "{}", field);
        }
    }

    #[test]
    fn a_valid_plan_survives_json(plan in plan()) {
        let read: TrainingPlan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
        prop_assert_eq!(read, plan);
    }

    #[test]
    fn overrides_survive_json(overrides in overrides()) {
        let read: PlanOverrides = serde_json::from_str(&serde_json::to_string(&overrides).unwrap()).unwrap();
        prop_assert_eq!(read, overrides);
    }

    #[test]
    fn each_problem_of_a_plan_points_to_a_field_that_exists(
        mut plan in plan(),
        wild in vec(wild(), 9),
        (batch_size, image_size, epochs) in any::<(u32, u32, u32)>(),
        train in any::<bool>(),
    ) {
        let numbers = [&mut plan.dropout, &mut plan.label_smoothing, &mut plan.mixup, &mut plan.checkpoint_minutes];
        numbers.into_iter().zip(&wild).for_each(|(number, value)| *number = *value);
        plan.augmentation.zoom = wild[4];
        plan.weight_averaging = Some(WeightAveraging { decay: wild[5] });
        plan.batch_size = batch_size;
        if train {
            plan.selection.split = Split::Train;
        }
        plan.stages[0].image_size = image_size;
        let step = &mut plan.stages[0].steps[0];
        (step.epochs, step.learning_rate, step.layer_decay) = (epochs, wild[6], wild[7]);
        step.schedule = Schedule::Cosine { final_fraction: wild[8] };
        let document = serde_json::to_value(&plan).unwrap();
        for problem in plan.validate() {
            prop_assert!(document.pointer(&problem.pointer).is_some(), "{:?}", problem);
        }
    }
}

// Learning rates

/// The rates of all batches of a step.
fn rates(schedule: Schedule, base: f64, batches_per_epoch: u64, epochs: u64) -> Vec<f64> {
    let batches = 0..batches_per_epoch * epochs;
    batches.map(|batch| schedule.learning_rate(base, BatchIndex { batch, batches_per_epoch, epochs })).collect()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_schedule_stays_between_zero_and_its_base(
        schedule in schedule(), base in 1e-8..=1.0, batches in 1..40u64, epochs in 1..20u64,
    ) {
        for rate in rates(schedule, base, batches, epochs) {
            prop_assert!((0.0..=base * (1.0 + 1e-12)).contains(&rate), "{}", rate);
        }
    }

    #[test]
    fn a_schedule_without_warm_up_never_rises(
        schedule in schedule(), base in 1e-8..=1.0, batches in 1..40u64, epochs in 1..20u64,
    ) {
        prop_assume!(!matches!(schedule, Schedule::OneCycle { .. }));
        let rates = rates(schedule, base, batches, epochs);
        prop_assert!(rates.is_sorted_by(|earlier, later| *later <= earlier * (1.0 + 1e-12)), "{:?}", rates);
        prop_assert!((rates[0] / base - 1.0).abs() < 1e-12, "{}", rates[0]);
    }

    #[test]
    fn one_cycle_rises_to_its_peak_and_falls_to_its_end(
        (warm_up_fraction, start_divisor, final_divisor) in (0.01..0.99, 1.0..1e4, 1.0..1e4),
        base in 1e-8..=1.0, batches in 2..40u64, epochs in 1..20u64,
    ) {
        let schedule = Schedule::OneCycle { warm_up_fraction, start_divisor, final_divisor };
        let rates = rates(schedule, base, batches, epochs);
        let (first, last) = (rates[0], rates[rates.len() - 1]);
        prop_assert!((first * start_divisor / base - 1.0).abs() < 1e-9, "{}", first);
        prop_assert!((last * final_divisor / base - 1.0).abs() < 1e-9, "{}", last);
        let end = (rates.len() - 1) as f64;
        let warm_up = rates.iter().enumerate().take_while(|(at, _)| (*at as f64 / end) < warm_up_fraction).count();
        prop_assert!(rates[..warm_up].is_sorted_by(|earlier, later| *later >= earlier * (1.0 - 1e-12)), "{:?}", rates);
        prop_assert!(rates[warm_up..].is_sorted_by(|earlier, later| *later <= earlier * (1.0 + 1e-12)), "{:?}", rates);
    }

    #[test]
    fn a_range_test_rises_from_its_first_rate_to_its_last(test in range_test()) {
        prop_assert_eq!(test.validate(), None);
        let rates: Vec<f64> = (0..test.batches).map(|batch| test.learning_rate(batch)).collect();
        prop_assert!(rates.is_sorted_by(|earlier, later| earlier < later));
        prop_assert_eq!(rates[0], test.from);
        prop_assert!((rates[rates.len() - 1] / test.to - 1.0).abs() < 1e-9);
    }

    #[test]
    fn early_stopping_waits_for_its_patience_and_no_longer(
        patience in 1..20u32, rising in vec(0.01..1.0, 1..20), min_delta in 0.0..0.005,
    ) {
        let rule = EarlyStopping { patience, min_delta };
        let mut scores: Vec<f64> = rising.iter().scan(0.0, |sum, rise| { *sum += rise; Some(*sum) }).collect();
        prop_assert!(!rule.should_stop(&scores), "each score is above the one before");
        let best = scores[scores.len() - 1];
        for waited in 1..=patience {
            scores.push(best);
            prop_assert_eq!(rule.should_stop(&scores), waited == patience);
        }
    }
}

// Splits by patient

/// An image of one of few patients, or of an unknown one; `number` determines its content.
fn radiograph(number: u32, (class, patient): (usize, Option<u8>)) -> Radiograph {
    Radiograph {
        id: RadiographId::new(),
        dataset_id: DatasetId::new(),
        sha256: Sha256::of(&number.to_le_bytes()),
        upload_sha256: None,
        file_name: format!("{number}.png"),
        label: Some(["normal", "pneumonia", "COVID-19"][class].to_owned()),
        patient_id: patient.map(|patient| format!("patient-{patient}")),
        source: None,
        view: None,
        split: None,
        width: 64,
        height: 64,
        format: "png".to_owned(),
        byte_length: 1,
        dicom: None,
        flags: Vec::new(),
        grey_range: None,
        synthetic: false,
        created_at: Timestamp::UNIX_EPOCH,
    }
}

fn radiographs(patients: impl Strategy<Value = Option<u8>>) -> impl Strategy<Value = Vec<Radiograph>> {
    vec((0..3usize, patients), 0..120)
        .prop_map(|images| (0..).zip(images).map(|(n, image)| radiograph(n, image)).collect())
}

fn fraction() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), 0.0..0.9]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_split_has_each_image_once_and_each_patient_in_one_part(
        images in radiographs(option::of(0..30u8)), test in fraction(), validation in fraction(), seed in any::<u64>(),
    ) {
        let splits = assign(&images, test, validation, seed);
        prop_assert_eq!(splits.len(), images.len());
        let splits: BTreeMap<String, Split> = splits.into_iter().map(|(id, split)| (id.to_string(), split)).collect();
        prop_assert_eq!(splits.len(), images.len());
        let mut of_patients: BTreeMap<&str, Split> = BTreeMap::new();
        for image in &images {
            let split = splits[&image.id.to_string()];
            if let Some(patient) = &image.patient_id {
                prop_assert_eq!(*of_patients.entry(patient).or_insert(split), split, "{}", patient);
            }
            prop_assert!(test > 0.0 || split != Split::Test);
            prop_assert!(validation > 0.0 || split != Split::Validation);
        }
    }

    #[test]
    fn a_split_depends_on_the_images_and_the_seed_and_not_on_their_order(
        images in radiographs(option::of(0..30u8)), test in fraction(), validation in fraction(), seed in any::<u64>(),
        rotation in any::<prop::sample::Index>(),
    ) {
        let by_id = |splits: Vec<(RadiographId, Split)>| -> BTreeMap<String, Split> {
            splits.into_iter().map(|(id, split)| (id.to_string(), split)).collect()
        };
        let mut moved = images.clone();
        moved.reverse();
        if !moved.is_empty() {
            let places = rotation.index(moved.len());
            moved.rotate_left(places);
        }
        let splits = by_id(assign(&images, test, validation, seed));
        prop_assert_eq!(by_id(assign(&moved, test, validation, seed)), splits);
    }

    #[test]
    fn without_groups_each_class_has_its_fraction_in_test(
        images in radiographs(Just(None)), test in fraction(), validation in fraction(), seed in any::<u64>(),
    ) {
        let splits: BTreeMap<String, Split> =
            assign(&images, test, validation, seed).into_iter().map(|(id, split)| (id.to_string(), split)).collect();
        for class in ["normal", "pneumonia", "COVID-19"] {
            let of_class = || images.iter().filter(|image| image.label.as_deref() == Some(class));
            let count = of_class().count();
            let in_test = of_class().filter(|image| splits[&image.id.to_string()] == Split::Test).count();
            let rounded = (count as f64 * test).round() as usize;
            let expected = if test > 0.0 && count >= 2 { rounded.clamp(1, count - 1) } else { rounded };
            prop_assert_eq!(in_test, expected, "{} of {}", class, count);
        }
    }

    #[test]
    fn a_validation_part_shares_no_patient_with_train_and_keeps_the_order(
        images in radiographs(option::of(0..30u8)), fraction in fraction(), seed in any::<u64>(),
    ) {
        let (train, validation) = split_off_validation(&images, fraction, seed);
        let patients = |part: &[Radiograph]| -> BTreeSet<String> {
            part.iter().filter_map(|image| image.patient_id.clone()).collect()
        };
        prop_assert!(patients(&train).is_disjoint(&patients(&validation)));
        let names = |part: &[Radiograph]| -> Vec<u32> {
            part.iter().map(|image| image.file_name.trim_end_matches(".png").parse().unwrap()).collect()
        };
        let (train, validation) = (names(&train), names(&validation));
        prop_assert!(train.is_sorted() && validation.is_sorted());
        let all: BTreeSet<u32> = train.iter().chain(&validation).copied().collect();
        prop_assert_eq!((all.len(), train.len() + validation.len()), (images.len(), images.len()));
    }
}

// Label files

/// Valid and invalid rows: spaces and control characters, class names in the wrong column, missing names.
fn row() -> impl Strategy<Value = Row> {
    let token =
        || prop_oneof!["[a-zA-Z0-9()._-]{1,12}", Just("normal".to_owned()), Just("a.png".to_owned()), "\\PC{0,6}"];
    let text = || prop_oneof![3 => vec(token(), 1..4).prop_map(|tokens| tokens.join(" ")), 1 => any::<String>()];
    let file_name = prop_oneof![4 => "[a-z0-9/()]{1,10}\\.(png|jpg|jpeg)", 1 => any::<String>()];
    let class = prop_oneof![8 => select(vec!["normal", "pneumonia", "COVID-19"]).prop_map(str::to_owned), 1 => token()];
    (option::of(text()), file_name, class, option::of(text())).prop_map(|(patient_id, file_name, class, source)| Row {
        line: 1,
        patient_id,
        file_name,
        class,
        source,
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_label_file_that_can_be_written_is_read_back_row_for_row(rows in vec(row(), 0..8)) {
        let classes = ClassList::default();
        let rows: Vec<Row> = rows.into_iter().filter(|row| covidx::write([row], &classes).is_ok()).collect();
        let text = covidx::write(&rows, &classes).unwrap();
        let numbered: Vec<Row> = (1..).zip(rows).map(|(line, row)| Row { line, ..row }).collect();
        prop_assert_eq!(covidx::parse(&text, &classes), (numbered, vec![]));
    }

    #[test]
    fn each_line_of_any_label_file_is_a_row_a_problem_or_blank(text in any::<String>()) {
        let (rows, problems) = covidx::parse(&text, &ClassList::default());
        let lines: BTreeSet<u32> =
            rows.iter().map(|row| row.line).chain(problems.iter().map(|problem| problem.line)).collect();
        prop_assert_eq!(lines.len(), rows.len() + problems.len());
        prop_assert!(lines.len() <= text.lines().count());
    }
}

// States of a run

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_sequence_of_requests_and_transitions_leaves_cancelled_or_succeeded(
        events in vec(prop_oneof![
            select(RunAction::ALL.to_vec()).prop_map(Ok),
            select(RunStatus::ALL.to_vec()).prop_map(Err),
        ], 0..40),
    ) {
        let mut status = RunStatus::Queued;
        for event in events {
            let next = match event {
                Ok(action) => status.apply(action),
                Err(to) => status.transition(to),
            };
            let Ok(next) = next else { continue };
            let ended = matches!(status, RunStatus::Cancelled | RunStatus::Succeeded);
            prop_assert!(!ended || next == status, "{} became {}", status, next);
            prop_assert!(next != RunStatus::Running || status == RunStatus::Queued || status == next);
            status = next;
        }
    }
}

#[test]
fn a_repeated_request_changes_nothing_more() {
    for status in RunStatus::ALL {
        for action in RunAction::ALL {
            if let Ok(next) = status.apply(action) {
                assert_eq!(next.apply(action), Ok(next), "{status} {action}");
            }
        }
    }
}

#[test]
fn each_state_leads_to_an_end_and_is_read_back_from_its_name() {
    for status in RunStatus::ALL {
        assert_eq!(status.as_str().parse(), Ok(status));
        assert!(status.is_final() || RunStatus::ALL.iter().any(|to| to.is_final() && status.transition(*to).is_ok()));
    }
}

// Disjoint sets

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_disjoint_set_finds_the_lowest_number_of_each_group(unions in vec((0..40usize, 0..40usize), 0..60)) {
        let mut set = DisjointSet::new(40);
        let mut labels: Vec<usize> = (0..40).collect();
        for (one, other) in unions {
            set.union(one, other);
            let (kept, replaced) = (labels[one].min(labels[other]), labels[one].max(labels[other]));
            labels.iter_mut().filter(|label| **label == replaced).for_each(|label| *label = kept);
        }
        let found: Vec<usize> = (0..40).map(|number| set.find(number)).collect();
        prop_assert_eq!(found, labels);
    }
}
