//! Wrong fields of a request in the terms of the command line: options instead of JSON pointers.

use super::CliError;
use crate::service::{self, FieldError};

/// The error of a use case, where the field `plan` of the request comes from the option `plan`, such as `--plan FILE`.
pub(super) fn refused(error: service::Error, plan: &str) -> CliError {
    let summary = error.to_string();
    match error {
        service::Error::Invalid(fields) => CliError::Refused(lines(&fields, plan)),
        service::Error::Leakage(findings) => {
            CliError::Leakage(findings.into_iter().map(|finding| finding.name).collect())
        }
        service::Error::Store(error) => error.into(),
        _ => CliError::Refused(summary),
    }
}

/// One error on one line; several below each other.
fn lines(fields: &[FieldError], plan: &str) -> String {
    let lines: Vec<String> = fields.iter().map(|field| line(field, plan)).collect();
    match lines.as_slice() {
        [one] => one.clone(),
        several => format!("{} errors:\n  {}", several.len(), several.join("\n  ")),
    }
}

fn line(field: &FieldError, plan: &str) -> String {
    let detail = field.command_detail.as_ref().unwrap_or(&field.detail);
    match option(&field.pointer, plan) {
        Some(option) => format!("{option}: {detail}"),
        None => detail.clone(),
    }
}

/// The option of a JSON pointer; none for the request as a whole.
fn option(pointer: &str, plan: &str) -> Option<String> {
    let path: Vec<String> = pointer.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect();
    match path.as_slice() {
        // The runs to compare have no option, and the description names them.
        [] => None,
        [first, ..] if first == "ids" => None,
        [first, rest @ ..] if first == "plan" => Some(rest.iter().fold(plan.to_owned(), |text, part| {
            let separator = if text.len() == plan.len() { ": " } else { "." };
            if part.parse::<usize>().is_ok() { format!("{text}[{part}]") } else { format!("{text}{separator}{part}") }
        })),
        [first, ..] if first == "dataset_id" => Some("--dataset".into()),
        [first, ..] => Some(format!("--{}", first.replace('_', "-"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_become_options_and_positions_in_the_plan() {
        let of = |pointer: &str| option(pointer, "--plan own.json");
        assert_eq!(of("/stages").unwrap(), "--stages");
        assert_eq!(of("/dataset_id").unwrap(), "--dataset");
        assert_eq!(of("/test_fraction").unwrap(), "--test-fraction");
        assert_eq!(of("/plan").unwrap(), "--plan own.json");
        assert_eq!(of("/plan/batch_size").unwrap(), "--plan own.json: batch_size");
        assert_eq!(of("/plan/stages/0/steps/1/epochs").unwrap(), "--plan own.json: stages[0].steps[1].epochs");
        assert_eq!((of(""), of("/ids/1")), (None, None));
    }

    #[test]
    fn an_error_has_its_description_for_the_command_line() {
        let field = FieldError::new("/recipe", "see GET /v1/recipes");
        assert_eq!(lines(std::slice::from_ref(&field), ""), "--recipe: see GET /v1/recipes");
        let both = [field.clone().on_the_command_line("unknown"), FieldError::new("", "and this")];
        assert_eq!(lines(&both, ""), "2 errors:\n  --recipe: unknown\n  and this");
    }
}
