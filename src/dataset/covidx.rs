//! COVIDx label files: one image per line, `patient-id filename class source`, separated by spaces.
//!
//! Published files omit the source and have spaces in patient ids. The parser therefore anchors on the class: the token before it is the
//! file name, everything before that the patient id, and everything after the class the source. A patient id of `-` means an unknown
//! patient, which is an extension of the published format.

use crate::domain::ClassList;

use super::match_class;

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
}

/// Parses a label file. Blank lines are skipped; invalid lines are returned as problems.
pub fn parse(text: &str, classes: &ClassList) -> (Vec<Row>, Vec<Problem>) {
    let (mut rows, mut problems) = (Vec::new(), Vec::new());
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (line, content) in (1..).zip(text.lines()) {
        match parse_line(line, content, classes) {
            None => {}
            Some(Ok(row)) => rows.push(row),
            Some(Err(reason)) => problems.push(Problem { line, reason }),
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
        let read = parse_line(row.line, &content, classes);
        if !read.is_some_and(|read| read.as_ref() == Ok(row)) || content.contains(['\n', '\r', '\u{feff}']) {
            return Err(Problem { line, reason: format!("{content:?} would be parsed as a different row") });
        }
        text.push_str(&content);
        text.push('\n');
    }
    Ok(text)
}

fn parse_line(line: u32, content: &str, classes: &ClassList) -> Option<Result<Row, String>> {
    let tokens: Vec<&str> = content.split_whitespace().collect();
    if tokens.is_empty() {
        return None;
    }
    Some(anchor(&tokens, classes).and_then(|(at, class)| {
        let file_name = tokens[at - 1];
        check_file_name(file_name)?;
        let source = tokens[at + 1..].join(" ");
        Ok(Row {
            line,
            patient_id: Some(tokens[..at - 1].join(" ")).filter(|patient| patient != UNKNOWN_PATIENT),
            file_name: file_name.to_owned(),
            class: class.to_owned(),
            source: if source.is_empty() { None } else { Some(source) },
        })
    }))
}

/// Index and class of the class token. A patient id or source may contain the name of a class too: the token after an image file name
/// takes precedence, else the last one.
fn anchor<'a>(tokens: &[&str], classes: &'a ClassList) -> Result<(usize, &'a str), String> {
    let candidates = tokens.iter().enumerate().filter_map(|(at, token)| Some((at, match_class(classes, token)?)));
    let candidates: Vec<_> = candidates.collect();
    let usable = || candidates.iter().rev().filter(|(at, _)| *at >= 2);
    if let Some(found) = usable().find(|(at, _)| is_image_name(tokens[at - 1])).or_else(|| usable().next()) {
        return Ok(*found);
    }
    Err(if candidates.is_empty() {
        format!("the line names no class of this data set (expected one of {})", classes.names().join(", "))
    } else {
        "patient id or file name is missing (expected `patient-id filename class source`)".to_owned()
    })
}

fn is_image_name(token: &str) -> bool {
    let extension = token.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    extension.is_some_and(|extension| ["png", "jpg", "jpeg"].contains(&extension.as_str()))
}

fn check_file_name(name: &str) -> Result<(), String> {
    if name.contains('\u{fffd}') {
        return Err(format!("file name {name:?} is not UTF-8"));
    }
    // Backslashes and drive letters are rejected too, so that a label file means the same on every system.
    let mut parts = name.split(['/', '\\']);
    if parts.clone().any(|part| part == ".") {
        return Err(format!("file name {name:?} is a folder"));
    }
    let has_parent = parts.any(|part| part == "..");
    let drive = name.as_bytes().get(1) == Some(&b':');
    if has_parent || drive || name.starts_with(['/', '\\']) || name.contains('\0') {
        return Err(format!("file name {name:?} is outside of the folder"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
