//! Comparison as a table: plain text and Markdown for people, CSV (RFC 4180) for programs.

use csv::{Terminator, WriterBuilder};

use super::{ComparedRun, Comparison, Estimate, Interval, Report};
use crate::format::{Column, Table, p_value};

/// Placeholder for a missing value.
const NONE: &str = "–";

impl Comparison {
    /// Plain-text table with a caption that explains the values.
    pub fn to_plain(&self) -> String {
        format!("{}\n{}\n", self.table().to_text(), self.caption())
    }

    /// Markdown table with a caption that explains the values.
    pub fn to_markdown(&self) -> String {
        format!("{}\n{}\n", self.table().to_markdown(), self.caption())
    }

    /// CSV with plain numbers, one column per interval bound; missing values are empty.
    pub fn to_csv(&self) -> String {
        let classes = self.classes();
        let scores = classes.iter().map(|class| format!("f1_{class}")).chain(AVERAGES.map(|(name, _, _)| name.into()));
        let scores = scores.flat_map(|name| [name.clone(), format!("{name}_low"), format!("{name}_high")]);
        let heads =
            ["id", "name", "recipe", "status", "architecture", "split", "stage", "n"].map(String::from).into_iter();
        let heads = heads.chain(scores).chain(LAST.map(String::from)).collect();
        let rows = self.items.iter().map(|run| self.csv_row(run, &classes));
        let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(Vec::new());
        for row in std::iter::once(heads).chain(rows) {
            writer.write_record(row).expect("rows of equal length, in memory");
        }
        String::from_utf8(writer.into_inner().expect("writing to memory")).expect("made of text")
    }

    fn table(&self) -> Table {
        let classes = self.classes();
        let columns = [Column::text("Run"), Column::text("Network"), Column::number("n")].into_iter();
        let columns = columns.chain(classes.iter().map(|class| Column::number(format!("F1 {class}"))));
        let columns = columns.chain(AVERAGES.map(|(_, name, _)| Column::number(name)));
        let columns = columns.chain(["Training time", "Parameters", "p"].map(Column::number));
        Table::new(columns, self.items.iter().map(|run| row(run, &classes)))
    }

    /// Classes of all runs, in the order of their class lists.
    fn classes(&self) -> Vec<String> {
        let mut classes: Vec<String> = Vec::new();
        for class in self.items.iter().filter_map(|run| run.model.as_ref()).flat_map(|model| model.classes.names()) {
            if !classes.contains(class) {
                classes.push(class.clone());
            }
        }
        classes
    }

    fn caption(&self) -> String {
        let stage = self.stage.map_or("the last stage of each run".into(), |stage| format!("stage {stage}"));
        format!(
            "Models of {stage} on the {} split, with 95 % confidence intervals. p: exact McNemar test of the accuracy against \
             the first run, on the images that both were evaluated on. Micro F1 equals the accuracy.",
            self.split
        )
    }

    fn csv_row(&self, run: &ComparedRun, classes: &[String]) -> Vec<String> {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let model = run.model.as_ref();
        let ends = |estimate: Option<Estimate>| match estimate {
            Some(Estimate { value, low, high }) => [value, low, high].map(|number| number.to_string()),
            None => Default::default(),
        };
        let names = [
            run.id.to_string(),
            text(&run.name),
            text(&run.recipe),
            run.status.to_string(),
            run.architecture.to_string(),
            self.split.to_string(),
            or_empty(model.map(|model| model.stage)),
            or_empty(run.scores.as_ref().map(|scores| scores.n)),
        ];
        let last = [
            or_empty(run.training_seconds),
            or_empty(model.map(|model| model.parameters)),
            or_empty(model.map(|model| model.byte_length)),
            or_empty(run.paired.map(|test| test.n)),
            or_empty(run.paired.map(|test| test.mcnemar_exact_p)),
        ];
        names.into_iter().chain(run.scores(classes).into_iter().flat_map(ends)).chain(last).collect()
    }
}

/// Name of a score in CSV, its table heading, and its value.
type Score = (&'static str, &'static str, fn(&Report) -> Estimate);

const AVERAGES: [Score; 3] = [
    ("macro_f1", "Macro F1", |report| report.macro_f1),
    ("weighted_f1", "Weighted F1", |report| report.weighted_f1),
    ("micro_f1", "Micro F1", |report| report.micro_f1),
];

/// Last CSV columns.
const LAST: [&str; 5] = ["training_seconds", "parameters", "byte_length", "paired_n", "mcnemar_exact_p"];

fn row(run: &ComparedRun, classes: &[String]) -> Vec<String> {
    let figure = |estimate: Option<Estimate>| match estimate {
        Some(Estimate { value, low, high }) => format!("{value:.3} ({low:.3}–{high:.3})"),
        None => NONE.into(),
    };
    let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.into());
    let n = or_none(run.scores.as_ref().map(|scores| scores.n.to_string()));
    let last = [
        or_none(run.training_seconds.map(duration)),
        or_none(run.model.as_ref().map(|model| grouped(model.parameters))),
        or_none(run.paired.map(|test| p_value(test.mcnemar_exact_p))),
    ];
    let names = [run.title(), run.architecture.to_string(), n].into_iter();
    names.chain(run.scores(classes).into_iter().map(figure)).chain(last).collect()
}

impl ComparedRun {
    /// F1 of each class, then the averages.
    fn scores(&self, classes: &[String]) -> Vec<Option<Estimate>> {
        let report = self.scores.as_ref();
        let f1 = |class: &String| {
            let class = report?.per_class.get(class)?;
            let Interval { low, high } = class.f1_interval?;
            Some(Estimate { value: class.f1?, low, high })
        };
        let averages = AVERAGES.iter().map(|(_, _, of)| report.map(of));
        classes.iter().map(f1).chain(averages).collect()
    }

    fn title(&self) -> String {
        let id = self.id.to_string();
        // The last characters of a UUIDv7 are random; ids created together differ there.
        let unnamed = || format!("{} {}", self.recipe.as_deref().unwrap_or("run"), &id[id.len() - 6..]);
        self.name.clone().unwrap_or_else(unnamed)
    }
}

fn or_empty(number: Option<impl ToString>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

/// 3 h 20 min, 4 min 10 s, 9.5 s
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// 23,508,032
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&[u8]> = digits.as_bytes().rchunks(3).rev().collect();
    String::from_utf8_lossy(&groups.join(&b',')).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{super::comparison::tests::input, *};
    use crate::{domain::Split, evaluation::ComparisonInput};

    fn comparison() -> Comparison {
        let unfinished = ComparisonInput { evaluated: None, training_seconds: None, name: None, ..input("", 2) };
        Comparison::new(Split::Test, None, vec![input("a|b", 2), input("say \"4\", twice", 4), unfinished])
    }

    #[test]
    fn markdown_has_one_row_per_run_and_escapes_cells() {
        let text = comparison().to_markdown();
        let lines: Vec<&str> = text.lines().collect();
        let columns = |line: &str| line.replace("\\|", "").matches('|').count();
        assert!(lines[..5].iter().all(|line| columns(line) == columns(lines[0])), "{text}");
        let cells = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let head = cells(lines[0]);
        assert!(
            head.starts_with("| Run | Network | n | F1 normal | F1 pneumonia | F1 COVID-19 | Macro F1 |"),
            "{head}"
        );
        assert!(cells(lines[2]).starts_with("| a\\|b | simple-cnn | 12 | 0.500 ("), "{text}");
        assert!(cells(lines[2]).contains("| 12 min 35 s | 425,731 | – |"), "{text}");
        // Three of twelve images are correct in one model only: p = 2 / 2 ** 3.
        assert!(lines[3].ends_with("| 0.250 |"), "{text}");
        assert!(cells(lines[4]).contains("| – | – |") && text.contains("last stage of each run on the test split"));
    }

    #[test]
    fn csv_has_one_cell_per_column_and_quotes_text() {
        let text = comparison().to_csv();
        let lines: Vec<&str> = text.split_terminator("\r\n").collect();
        let heads: Vec<&str> = lines[0].split(',').collect();
        let of = |line: &str, head: &str| -> String {
            let cells: Vec<&str> = line.split(',').collect();
            assert_eq!(cells.len(), heads.len(), "{line}");
            cells[heads.iter().position(|name| *name == head).unwrap()].into()
        };
        assert_eq!(of(lines[1], "f1_normal"), "0.5");
        assert_eq!((of(lines[1], "parameters"), of(lines[1], "training_seconds")), ("425731".into(), "754.6".into()));
        assert!(of(lines[1], "macro_f1_low") < of(lines[1], "macro_f1"));
        assert!(lines[2].contains(",\"say \"\"4\"\", twice\","), "{}", lines[2]);
        let (rest, p) = lines[2].rsplit_once(',').unwrap();
        assert!(rest.ends_with(",12") && (p.parse::<f64>().unwrap() - 0.25).abs() < 1e-12, "{}", lines[2]);
        assert_eq!((of(lines[3], "macro_f1"), of(lines[3], "n")), (String::new(), String::new()));
    }

    #[test]
    fn plain_text_is_aligned() {
        let text = comparison().to_plain();
        let lines: Vec<&str> = text.lines().collect();
        let at = |line: &str, word: &str| line.find(word).unwrap();
        assert_eq!(at(lines[0], "Network"), at(lines[1], "simple-cnn"));
        assert_eq!(at(lines[1], "simple-cnn"), at(lines[2], "simple-cnn"));
    }

    #[test]
    fn durations_and_counts_are_readable() {
        assert_eq!([9.46, 59.4, 250.0, 12_000.0].map(duration), ["9.5 s", "59 s", "4 min 10 s", "3 h 20 min"]);
        assert_eq!([7, 1234, 23_508_032].map(grouped), ["7", "1,234", "23,508,032"]);
    }
}
