//! COVIDx label files: one image per line, `patient-id filename class source`, separated by spaces.
//!
//! Published files omit the source and have spaces in patient ids. The parser therefore anchors on the class: the token before it is the
//! file name, everything before that the patient id, and everything after the class the source. A patient id of `-` means an unknown
//! patient, which is an extension of the published format.

use crate::domain::ClassList;

use super::{match_case, match_name};

/// Patient id of unknown patients.
const UNKNOWN_PATIENT: &str = "-";

/// Row of a label file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Line number, from 1.
    pub line: u32,
    /// Patient id, which may contain spaces; none if unknown.
    pub patient_id: Option<String>,
    /// File name relative to the image folder of the split; never absolute and without `..`.
    pub file_name: String,
    /// Class, in the spelling of the data set.
    pub class: String,
    /// Source, if given.
    pub source: Option<String>,
}

/// Invalid line of a label file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line number, from 1.
    pub line: u32,
    /// Reason.
    pub reason: String,
    /// The line.
    pub line_text: String,
}

/// Parses a label file. Blank lines are skipped; invalid lines are returned as problems.
pub fn parse(text: &str, classes: &ClassList) -> (Vec<Row>, Vec<Problem>) {
    parse_names(text, classes.names())
}

/// [`parse`] with any class names.
pub(super) fn parse_names(text: &str, classes: &[String]) -> (Vec<Row>, Vec<Problem>) {
    let (mut rows, mut problems) = (Vec::new(), Vec::new());
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (line, content) in (1..).zip(text.lines()) {
        match parse_line(line, content, classes) {
            None => {}
            Some(Ok(row)) => rows.push(row),
            Some(Err(reason)) => problems.push(Problem { line, reason, line_text: content.to_owned() }),
        }
    }
    (rows, problems)
}

/// Formats rows as label file. [`parse`] returns the same rows, except for line numbers.
///
/// # Errors
/// A row that the format cannot represent, for example because of a space in the file name or a class that is not in `classes`.
pub fn write<'a>(rows: impl IntoIterator<Item = &'a Row>, classes: &ClassList) -> Result<String, Problem> {
    let mut text = String::new();
    for (line, row) in (1..).zip(rows) {
        let patient = row.patient_id.as_deref().unwrap_or(UNKNOWN_PATIENT);
        let columns = [Some(patient), Some(&row.file_name), Some(&row.class), row.source.as_deref()];
        let content = columns.into_iter().flatten().collect::<Vec<_>>().join(" ");
        let read = parse_line(row.line, &content, classes.names());
        if !read.is_some_and(|read| read.as_ref() == Ok(row)) || content.contains(['\n', '\r', '\u{feff}']) {
            let reason = format!("{content:?} would be parsed as a different row");
            return Err(Problem { line, reason, line_text: content });
        }
        text.push_str(&content);
        text.push('\n');
    }
    Ok(text)
}

fn parse_line(line: u32, content: &str, classes: &[String]) -> Option<Result<Row, String>> {
    let tokens: Vec<&str> = content.split_whitespace().collect();
    if tokens.is_empty() {
        return None;
    }
    Some(anchor(&tokens, classes).and_then(|Anchor { at, end, class }| {
        let file_name = tokens[at - 1];
        check_file_name(file_name)?;
        let source = tokens[end..].join(" ");
        Ok(Row {
            line,
            patient_id: Some(tokens[..at - 1].join(" ")).filter(|patient| patient != UNKNOWN_PATIENT),
            file_name: file_name.to_owned(),
            class: class.to_owned(),
            source: if source.is_empty() { None } else { Some(source) },
        })
    }))
}

/// Class of a line, in the tokens from `at` to `end`.
struct Anchor<'a> {
    at: usize,
    end: usize,
    class: &'a str,
}

/// Finds the class of a line, which is one token, or several for a class such as `Viral Pneumonia`. A patient id or source may contain the
/// name of a class too: the class after an image file name takes precedence, else the last one. Names that differ by more than case count
/// only in lines without others.
fn anchor<'a>(tokens: &[&str], classes: &'a [String]) -> Result<Anchor<'a>, String> {
    let [exact, loose] = [match_case, match_name].map(|matches| candidates(tokens, classes, matches));
    let named = !loose.is_empty();
    for mut usable in [exact, loose] {
        usable.retain(|found| found.at >= 2);
        let best = usable.iter().rposition(|found| is_image_name(tokens[found.at - 1]));
        if let Some(best) = best.or(usable.len().checked_sub(1)) {
            return Ok(usable.swap_remove(best));
        }
    }
    Err(if named {
        "patient id or file name is missing (expected `patient-id filename class source`)".to_owned()
    } else {
        format!("the line names no class of this data set (expected one of {})", classes.join(", "))
    })
}

/// The class names in a line. A name within a longer one, such as the second word of `Viral Pneumonia`, is none.
fn candidates<'a>(
    tokens: &[&str],
    classes: &'a [String],
    matches: fn(&'a [String], &str) -> Option<&'a str>,
) -> Vec<Anchor<'a>> {
    let words = |class: &str| class.split(' ').count();
    let max_words = classes.iter().map(|class| words(class)).max().unwrap_or(1);
    let mut candidates: Vec<Anchor<'a>> = Vec::new();
    for at in 0..tokens.len() {
        if candidates.last().is_some_and(|last| at < last.end) {
            continue;
        }
        let ends = (at + 1..=tokens.len().min(at + max_words)).rev();
        let mut named = ends.filter_map(|end| {
            let class = matches(classes, &tokens[at..end].join(" "))?;
            (end == at + 1 || end == at + words(class)).then_some(Anchor { at, end, class })
        });
        candidates.extend(named.next());
    }
    candidates
}

fn is_image_name(token: &str) -> bool {
    let extension = token.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    extension.is_some_and(|extension| ["png", "jpg", "jpeg"].contains(&extension.as_str()))
}

fn check_file_name(name: &str) -> Result<(), String> {
    if name.contains('\u{fffd}') {
        return Err("the file name is not UTF-8".to_owned());
    }
    // Backslashes and drive letters are rejected too, so that a label file means the same on every system.
    let mut parts = name.split(['/', '\\']);
    if parts.clone().any(|part| part == ".") {
        return Err("the file name is a folder".to_owned());
    }
    let has_parent = parts.any(|part| part == "..");
    let drive = name.as_bytes().get(1) == Some(&b':');
    if has_parent || drive || name.starts_with(['/', '\\']) || name.contains('\0') {
        return Err("the file name is outside of the folder".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
