//! The Store Instances Response Module (PS3.18, annex I) in the DICOM JSON model (annex F).

use serde_json::{Value, json};

use crate::imaging::SopInstance;

const RETRIEVE_URL: &str = "00081190";
const REFERENCED_SOP_CLASS: &str = "00081150";
const REFERENCED_SOP_INSTANCE: &str = "00081155";
const WARNING_REASON: &str = "00081196";
const FAILURE_REASON: &str = "00081197";
const FAILED_SOP_SEQUENCE: &str = "00081198";
const REFERENCED_SOP_SEQUENCE: &str = "00081199";
const OTHER_FAILURES_SEQUENCE: &str = "0008119A";

/// Warning Reason B006H, Elements Discarded: only grey pixels and an allow-list of attributes are kept.
const ELEMENTS_DISCARDED: u16 = 0xb006;

/// Reason for not storing an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Not accepted by the data set.
    Refused,
    /// SOP class other than a radiograph.
    OtherClass,
    /// Over the limit of bytes or pixels.
    TooLarge,
    /// Study other than that of the path.
    OtherStudy,
    /// Damaged, or not supported.
    NotUnderstood,
}

impl Reason {
    /// Failure Reason code (annex I.2.2; PS3.4, table B.2-1).
    fn code(self) -> u16 {
        match self {
            Self::Refused => 0x0110,
            Self::OtherClass => 0x0122,
            Self::TooLarge => 0xa700,
            Self::OtherStudy => 0xa900,
            Self::NotUnderstood => 0xc000,
        }
    }
}

/// Result of each instance.
#[derive(Debug, Default)]
pub(super) struct Report {
    stored: Vec<Value>,
    failed: Vec<Value>,
    /// Failed instances without a readable SOP Instance UID.
    others: Vec<Value>,
}

impl Report {
    pub(super) fn stored(&mut self, reference: &SopInstance) {
        let mut item = reference_item(reference);
        item[RETRIEVE_URL] = json!({ "vr": "UR" });
        item[WARNING_REASON] = unsigned_short(ELEMENTS_DISCARDED);
        self.stored.push(item);
    }

    pub(super) fn failed(&mut self, reference: Option<&SopInstance>, reason: Reason) {
        let (mut item, list) = match reference {
            Some(reference) => (reference_item(reference), &mut self.failed),
            None => (json!({}), &mut self.others),
        };
        item[FAILURE_REASON] = unsigned_short(reason.code());
        list.push(item);
    }

    pub(super) fn has_stored(&self) -> bool {
        !self.stored.is_empty()
    }

    pub(super) fn has_failed(&self) -> bool {
        !self.failed.is_empty() || !self.others.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.has_stored() && !self.has_failed()
    }

    pub(super) fn to_json(&self) -> Value {
        let mut module = json!({ RETRIEVE_URL: { "vr": "UR" } });
        let sequences = [
            (REFERENCED_SOP_SEQUENCE, &self.stored),
            (FAILED_SOP_SEQUENCE, &self.failed),
            (OTHER_FAILURES_SEQUENCE, &self.others),
        ];
        for (tag, items) in sequences.into_iter().filter(|(_, items)| !items.is_empty()) {
            module[tag] = json!({ "vr": "SQ", "Value": items });
        }
        module
    }
}

fn reference_item(reference: &SopInstance) -> Value {
    let uid = |uid: &str| json!({ "vr": "UI", "Value": [uid] });
    json!({ REFERENCED_SOP_CLASS: uid(&reference.class), REFERENCED_SOP_INSTANCE: uid(&reference.instance) })
}

fn unsigned_short(number: u16) -> Value {
    json!({ "vr": "US", "Value": [number] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_only_sequences_that_are_not_empty() {
        let reference = SopInstance { class: "1.2".into(), instance: "3.4".into(), study: None };
        let mut report = Report::default();
        assert!(report.is_empty());
        assert_eq!(report.to_json(), json!({ "00081190": { "vr": "UR" } }));
        report.failed(None, Reason::NotUnderstood);
        report.failed(Some(&reference), Reason::OtherClass);
        assert!(report.has_failed() && !report.has_stored());
        report.stored(&reference);
        let names = json!({
            "00081150": { "vr": "UI", "Value": ["1.2"] },
            "00081155": { "vr": "UI", "Value": ["3.4"] },
        });
        let with = |tag: &str, value: Value| {
            let mut item = names.clone();
            item[tag] = value;
            item
        };
        let mut stored = with("00081196", json!({ "vr": "US", "Value": [45062] }));
        stored["00081190"] = json!({ "vr": "UR" });
        assert_eq!(
            report.to_json(),
            json!({
                "00081190": { "vr": "UR" },
                "00081199": { "vr": "SQ", "Value": [stored] },
                "00081198": { "vr": "SQ", "Value": [with("00081197", json!({ "vr": "US", "Value": [290] }))] },
                "0008119A": { "vr": "SQ", "Value": [{ "00081197": { "vr": "US", "Value": [49152] } }] },
            })
        );
    }
}
