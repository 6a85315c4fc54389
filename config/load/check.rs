//! Holds an encoded message against its schema: unknown fields, notes on fields, `validate.rules`; into every Any whose
//! type is known. Works on wire format, so that files and xDS share it.

mod fields;

use super::findings::{Findings, Path};
use super::rules::{RepeatedRules, Rules, Value, ValueRules};
use super::schema::{Field, Kind, Known, Label, Message, Note, Schemas};
use super::tree::MAX_DEPTH;
use super::wire::{Malformed, Raw, type_name};
use fields::Entry;
use std::borrow::Cow;
use std::sync::Arc;

pub(super) use fields::{Fields, any_parts};

/// Checks the encoded `message` in `bytes`; what is wrong with it goes to `findings`.
pub(super) fn check(message: &Arc<Message>, bytes: &[u8], schemas: &mut Schemas, findings: &mut Findings) {
    Checker { schemas, findings, depth: 0, enters_any: true }.message(message, bytes, &Path::ROOT);
}

/// As [`check`], whatever the messages are that are in an Any.
pub(super) fn check_outside_any(message: &Arc<Message>, bytes: &[u8], schemas: &mut Schemas, findings: &mut Findings) {
    Checker { schemas, findings, depth: 0, enters_any: false }.message(message, bytes, &Path::ROOT);
}

struct Checker<'a> {
    schemas: &'a mut Schemas,
    findings: &'a mut Findings,
    depth: usize,
    enters_any: bool,
}

impl Checker<'_> {
    fn message(&mut self, message: &Arc<Message>, bytes: &[u8], path: &Path<'_>) {
        if self.depth >= MAX_DEPTH {
            return self.wrong(path, format!("nested more than {MAX_DEPTH} messages deep"));
        }
        if self.findings.is_full() {
            return;
        }
        let fields = match Fields::parse(message, bytes) {
            Ok(fields) => fields,
            Err(Malformed) => return self.wrong(path, format!("cannot be decoded as {}", message.name)),
        };
        self.depth += 1;
        for number in &fields.unknown {
            let name = number.to_string();
            self.findings.unknown_field(&path.field(&name), None, message, || None);
        }
        if message.work_in_progress {
            self.findings.used(Note::WorkInProgress, &message.name, path);
        }
        self.absent_enums(message, &fields, path);
        self.rules(message, &fields, path);
        self.oneofs(message, &fields, path);
        self.entries(message, &fields, path);
        if message.known == Known::Any && self.enters_any {
            self.any(&fields, path);
        }
        self.depth -= 1;
    }

    /// An enum left out has its zero, which may be deprecated.
    fn absent_enums(&mut self, message: &Message, fields: &Fields<'_>, path: &Path<'_>) {
        for index in &message.enums {
            if fields.single(*index).is_none() {
                let field = &message.fields[usize::from(*index)];
                self.inside(field, &Raw::Varint(0), &path.field(&field.name));
            }
        }
    }

    /// What the rules ask of fields as wholes and of single values, absent ones among them.
    fn rules(&mut self, message: &Message, fields: &Fields<'_>, path: &Path<'_>) {
        for index in &message.ruled {
            let field = &message.fields[usize::from(*index)];
            let Some(rules) = &field.rules else { continue };
            let path = path.field(&field.name);
            match field.label {
                Label::Single => self.single(field, rules, fields.single(*index), &path),
                Label::Repeated => self.repeated(field, rules, fields, *index, &path),
                Label::Map => self.map(field, rules, fields, *index, &path),
            }
        }
    }

    fn single(&mut self, field: &Field, rules: &Rules, raw: Option<&Raw<'_>>, path: &Path<'_>) {
        match raw {
            // Of a member of a oneof, "required" asks only that the member be set once it is the one chosen.
            None if rules.required && field.oneof.is_none() => self.wrong(path, "value is required"),
            None if field.has_presence => {}
            None => self.value(field, rules, &Raw::default_of(field.kind), path),
            Some(raw) => self.value(field, rules, raw, path),
        }
    }

    /// One value of a field, be it a list's element or the field's own.
    fn value(&mut self, field: &Field, rules: &Rules, raw: &Raw<'_>, path: &Path<'_>) {
        let Some(value_rules) = &rules.value else { return };
        let result = match (value_rules, field.kind, raw) {
            (ValueRules::Enum(rules), Kind::Enum(id), Raw::Varint(number)) => {
                rules.check(*number as i32, &self.schemas.enumeration(id))
            }
            (ValueRules::Any(rules), Kind::Message(_), Raw::Bytes(bytes)) => rules.check(any_parts(bytes).0),
            (rules, Kind::Message(id), Raw::Bytes(bytes)) => {
                let message = self.schemas.message(id);
                self.known_value(&message, rules, bytes)
            }
            (rules, kind, raw) => raw.value(kind).map_or(Ok(()), |value| rules.check(value)),
        };
        if let Err(reason) = result {
            self.wrong(path, reason);
        }
    }

    /// Rules of a scalar on a message: of the value in a wrapper, or of a duration or time.
    fn known_value(&mut self, message: &Message, rules: &ValueRules, bytes: &[u8]) -> Result<(), String> {
        // A message that cannot be decoded is reported when the walk enters it.
        let Ok(fields) = Fields::parse(message, bytes) else { return Ok(()) };
        match message.known {
            Known::Wrapper => {
                let kind = message.fields[0].kind;
                let default = Raw::default_of(kind);
                let raw = fields.single(0).unwrap_or(&default);
                raw.value(kind).map_or(Ok(()), |value| rules.check(value))
            }
            Known::Duration | Known::Timestamp => rules.check(Value::Time(fields.nanos())),
            _ => Ok(()),
        }
    }

    fn repeated(&mut self, field: &Field, rules: &Rules, fields: &Fields<'_>, index: u16, path: &Path<'_>) {
        let Some(ValueRules::Repeated(rules)) = &rules.value else { return };
        let values = fields.repeated(index, field.kind);
        if let Err(reason) = rules.check_count(values.len()) {
            self.wrong(path, reason);
        }
        self.unique(rules, &values, path);
        let Some(item_rules) = &rules.items else { return };
        for (index, raw) in values.iter().enumerate() {
            self.value(field, item_rules, raw, &path.index(index));
        }
    }

    fn unique(&mut self, rules: &RepeatedRules, values: &[Raw<'_>], path: &Path<'_>) {
        if rules.unique {
            let mut seen = std::collections::HashSet::with_capacity(values.len());
            if let Some(index) = values.iter().position(|value| !seen.insert(value.key())) {
                self.wrong(&path.index(index), "repeated value must contain unique items");
            }
        }
    }

    fn map(&mut self, field: &Field, rules: &Rules, fields: &Fields<'_>, index: u16, path: &Path<'_>) {
        let (Some(ValueRules::Map(rules)), Some(entry)) = (&rules.value, field.message()) else { return };
        let entries = fields.repeated(index, field.kind);
        let entry = self.schemas.message(entry);
        let mut names = std::collections::HashSet::new();
        for raw in &entries {
            let Raw::Bytes(bytes) = raw else { continue };
            let Ok(pair) = Fields::parse(&entry, bytes) else { continue };
            let name = pair.key_text(&entry);
            let path = path.key(&name);
            if let Some(rules) = &rules.keys {
                self.single(&entry.fields[0], rules, pair.single(0), &path);
            }
            if let Some(rules) = &rules.values {
                self.single(&entry.fields[1], rules, pair.single(1), &path);
            }
            if rules.no_sparse && pair.single(1).is_none() && entry.fields[1].message().is_some() {
                self.wrong(&path, "value cannot be sparse, all pairs must be non-nil");
            }
            names.insert(name);
        }
        if let Err(reason) = rules.check_count(names.len()) {
            self.wrong(path, reason);
        }
    }

    fn oneofs(&mut self, message: &Message, fields: &Fields<'_>, path: &Path<'_>) {
        for (index, oneof) in message.oneofs.iter().enumerate() {
            let mut members = message.fields.iter().filter(|field| field.oneof == Some(index as u16));
            if oneof.required
                && !fields.has_oneof(message, index as u16)
                && !members.any(|member| self.findings.is_known_wrong(&path.field(&member.name)))
            {
                self.wrong(&path.field(&oneof.name), "value is required");
            }
        }
    }

    /// Notes, text that is no UTF-8, and the messages inside.
    fn entries(&mut self, message: &Arc<Message>, fields: &Fields<'_>, path: &Path<'_>) {
        let mut counts: Vec<(u16, usize)> = Vec::new();
        for Entry { field: index, raw } in fields.entries() {
            let field = &message.fields[usize::from(*index)];
            let path = path.field(&field.name);
            if let Some(note) = field.note {
                self.findings.used_field(note, message, field, &path);
            }
            match field.label {
                Label::Single => self.inside(field, raw, &path),
                Label::Map => self.pair(field, raw, &path),
                Label::Repeated => {
                    let element = count(&mut counts, *index);
                    self.inside(field, raw, &path.index(element));
                }
            }
        }
    }

    fn inside(&mut self, field: &Field, raw: &Raw<'_>, path: &Path<'_>) {
        match (field.kind, raw) {
            (Kind::Message(_), _) if field.rules.as_ref().is_some_and(|rules| rules.skips()) => {}
            (Kind::Message(id), Raw::Bytes(bytes)) => {
                let message = self.schemas.message(id);
                self.message(&message, bytes, path);
            }
            (Kind::String, Raw::Bytes(bytes)) if std::str::from_utf8(bytes).is_err() => {
                self.wrong(path, "text is not valid UTF-8");
            }
            (Kind::Enum(id), Raw::Varint(number)) => {
                let schema = self.schemas.enumeration(id);
                let value = schema.numbered(*number as i32).filter(|_| schema.noted);
                if let Some((value, note)) = value.and_then(|v| Some((v, v.note?))) {
                    self.findings.used(note, &format!("{}.{}", schema.name, value.name), path);
                }
            }
            _ => {}
        }
    }

    fn pair(&mut self, field: &Field, raw: &Raw<'_>, path: &Path<'_>) {
        let (Some(id), Raw::Bytes(bytes)) = (field.message(), raw) else { return };
        let entry = self.schemas.message(id);
        let Ok(pair) = Fields::parse(&entry, bytes) else {
            return self.wrong(path, "an entry of the map cannot be decoded");
        };
        let name = pair.key_text(&entry);
        self.depth += 1;
        for Entry { field: index, raw } in pair.entries() {
            self.inside(&entry.fields[usize::from(*index)], raw, &path.key(&name));
        }
        self.depth -= 1;
    }

    /// The message in an Any. One of a type that Envoy lacks is left to whoever wants it.
    fn any(&mut self, fields: &Fields<'_>, path: &Path<'_>) {
        let bytes = |index| match fields.single(index) {
            Some(Raw::Bytes(bytes)) => Cow::clone(bytes),
            _ => Cow::Borrowed(&[][..]),
        };
        let url = bytes(0);
        let name = type_name(std::str::from_utf8(&url).unwrap_or_default());
        if let Some(message) = self.schemas.find(name) {
            self.message(&message, &bytes(1), path);
        }
    }

    fn wrong(&mut self, path: &Path<'_>, reason: impl Into<String>) {
        self.findings.wrong(path, None, reason);
    }
}

impl Rules {
    /// Whether messages in the field are not to be looked into.
    fn skips(&self) -> bool {
        let items = match &self.value {
            Some(ValueRules::Repeated(rules)) => rules.items.as_ref(),
            Some(ValueRules::Map(rules)) => rules.values.as_ref(),
            _ => None,
        };
        self.skip || items.is_some_and(|items| items.skip)
    }
}

/// How many elements of field `index` came before, of which one more comes now.
fn count(counts: &mut Vec<(u16, usize)>, index: u16) -> usize {
    if let Some((_, count)) = counts.iter_mut().find(|(i, _)| *i == index) {
        *count += 1;
        return *count - 1;
    }
    counts.push((index, 1));
    0
}
