//! [`Node`] -> any type with a derived `Deserialize`, reporting every mistake and not only the first.
//!
//! serde stops at the first error. So: deserialize, note the [`Fault`] with its path and position, take the node that
//! caused it out of the tree, and try again, until it succeeds. That works because no field of the raw types is required
//! by serde (what must be there is checked afterwards, where it can be explained better).
//!
//! The fault is an error type of our own, so that what serde hands over (the unknown name and those that exist, the
//! value found and the one expected) is kept apart and not parsed from a text.

use std::fmt::{self, Display};

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
    value::{MapDeserializer, StrDeserializer},
};

use super::{
    problem::{Path, Position, Segment},
    yaml::{Entry, Node, Value},
};

/// After this many mistakes the rest is not looked for: by then it is not a spec.
const MAX_FAULTS: usize = 50;

/// A mistake in the shape of the spec.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) at: Option<Position>,
    /// Where the mistake is, for the reader.
    pub(super) path: Path,
    /// The node that has to go for the next try: usually `path` itself.
    target: Path,
    /// A field that was probably meant, beside `target`.
    meant: Option<String>,
}

/// What came of a tree.
pub(super) struct Outcome<T> {
    /// The value without the mistaken parts; `None` when nothing is left.
    pub(super) value: Option<T>,
    /// In the order in which they were found.
    pub(super) faults: Vec<Fault>,
    /// Fields that somebody tried to give under another name: they are not to be reported as missing.
    pub(super) meant: Vec<Path>,
}

/// Deserializes what can be, and takes the rest out of the tree.
pub(super) fn deserialize<T: DeserializeOwned>(root: &mut Node) -> Outcome<T> {
    let mut outcome = Outcome { value: None, faults: Vec::new(), meant: Vec::new() };
    while outcome.faults.len() < MAX_FAULTS {
        let mut fault = match T::deserialize(&*root) {
            Ok(value) => {
                outcome.value = Some(value);
                return outcome;
            }
            Err(fault) => fault,
        };
        // Paths are collected on the way out, innermost first.
        fault.path.0.reverse();
        fault.target.0.reverse();
        let is_root = fault.target.0.is_empty();
        let removed = root.remove(&fault.target);
        if let Some(meant) = fault.meant.take() {
            let mut sibling = fault.target.clone();
            sibling.0.pop();
            outcome.meant.push(sibling.key(&meant));
        }
        outcome.faults.push(fault);
        if is_root || !removed {
            return outcome;
        }
    }
    let last = outcome.faults.last().and_then(|fault| fault.at);
    outcome.faults.push(Fault { at: last, ..Fault::new("too many mistakes; the rest is not listed".to_owned()) });
    outcome
}

impl Fault {
    fn new(message: String) -> Self {
        Fault { message, at: None, path: Path::default(), target: Path::default(), meant: None }
    }

    /// Sets the position unless one further in did.
    fn at(mut self, at: Position) -> Self {
        self.at.get_or_insert(at);
        self
    }

    /// One step further out.
    fn below(mut self, segment: Segment) -> Self {
        self.path.0.push(segment.clone());
        self.target.0.push(segment);
        self
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: Display>(message: T) -> Self {
        Fault::new(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = expectation(expected);
        let hint = match found {
            Unexpected::Str(text) if expected == "a list" => format!("; write `[{text}]`"),
            Unexpected::Signed(number) if expected == "text" => format!("; put it in quotes: \"{number}\""),
            Unexpected::Float(number) if expected == "text" => format!("; put it in quotes: \"{number}\""),
            Unexpected::Bool(value) if expected == "text" => format!("; put it in quotes: \"{value}\""),
            _ => String::new(),
        };
        Fault::new(format!("expected {expected}, found {}{hint}", describe(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Fault::new(format!("expected {}, found {}", expectation(expected), describe(found)))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Fault { meant: None, ..unknown("value", variant, expected) }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        unknown("field", field, expected)
    }
}

/// "unknown field `topik`; did you mean `topic`? available: ..."
fn unknown(what: &str, name: &str, available: &[&str]) -> Fault {
    let meant = near(name, available);
    let mut message = format!("unknown {what} `{name}`; ");
    if let Some(meant) = meant {
        message += &format!("did you mean `{meant}`? ");
    }
    message += &format!("available: {}", available.join(", "));
    Fault { meant: meant.map(str::to_owned), ..Fault::new(message) }
}

/// The available name that was probably meant.
pub(super) fn near<'a>(name: &str, available: &[&'a str]) -> Option<&'a str> {
    let name = name.to_lowercase();
    let likeness = |candidate: &str| strsim::jaro_winkler(&name, &candidate.to_lowercase());
    let best = available.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) >= 0.8).then_some(best)
}

/// serde's words for what it expects, in the spec's.
fn expectation(expected: &dyn Expected) -> String {
    match expected.to_string().as_str() {
        "a string" => "text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "i32" | "i64" => "a whole number".to_owned(),
        other => other.to_owned(),
    }
}

fn describe(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Unit => "nothing".to_owned(),
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Signed(number) => format!("the number {number}"),
        Unexpected::Float(number) => format!("the number {number}"),
        Unexpected::Str(text) => format!("the text `{}`", shorten(text)),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a map".to_owned(),
        other => other.to_string(),
    }
}

fn shorten(text: &str) -> String {
    let first: String = text.chars().take_while(|c| *c != '\n').take(40).collect();
    if first.len() < text.len() { format!("{first}...") } else { first }
}

impl Node {
    /// Itself, as something that was not expected.
    fn unexpected(&self) -> Unexpected<'_> {
        match &self.value {
            Value::Null | Value::Removed => Unexpected::Unit,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Int(number) => Unexpected::Signed(*number),
            Value::Float(number) => Unexpected::Float(*number),
            Value::Text { text, .. } => Unexpected::Str(text),
            Value::List(_) => Unexpected::Seq,
            Value::Map(_) => Unexpected::Map,
        }
    }
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let result = match &self.value {
            Value::Null | Value::Removed => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Text { text, .. } => visitor.visit_borrowed_str(text),
            Value::List(items) => visitor.visit_seq(Items(items.iter().enumerate())),
            Value::Map(entries) => visitor.visit_map(Fields { entries: entries.iter(), current: None }),
        };
        result.map_err(|fault| fault.at(self.at))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    /// A derived struct would take a list as well.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.value {
            Value::Map(_) => self.deserialize_any(visitor),
            _ => Err(Fault::at(de::Error::invalid_type(self.unexpected(), &visitor), self.at)),
        }
    }

    /// A bare name is a variant with nothing or with all defaults (`json` is `{json: {}}`), a map of one field a variant
    /// with content.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let chosen = match &self.value {
            Value::Text { text, .. } => Ok(Choice { name: text, at: self.at, content: None }),
            Value::Map(entries) => match entries.as_slice() {
                [entry] => Ok(Choice { name: &entry.key, at: entry.key_at, content: Some(&entry.node) }),
                [] => Err("an empty map".to_owned()),
                [..] => Err("a map of several".to_owned()),
            },
            _ => Err(describe(self.unexpected())),
        };
        chosen
            .map_err(|found| Fault::new(format!("expected one of {}, found {found}", variants.join(", "))))
            .and_then(|choice| visitor.visit_enum(choice))
            .map_err(|fault| fault.at(self.at))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

/// A list's elements, without those removed.
struct Items<'de>(std::iter::Enumerate<std::slice::Iter<'de, Node>>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some((index, node)) = self.0.find(|(_, node)| !matches!(node.value, Value::Removed)) else {
            return Ok(None);
        };
        seed.deserialize(node).map(Some).map_err(|fault| fault.below(Segment::Index(index)))
    }

    /// As many as were written, removed ones included.
    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

/// A map's fields, without those removed.
struct Fields<'de> {
    entries: std::slice::Iter<'de, Entry>,
    current: Option<&'de Entry>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        self.current = self.entries.find(|entry| !matches!(entry.node.value, Value::Removed));
        let Some(entry) = self.current else { return Ok(None) };
        seed.deserialize(Key(&entry.key)).map(Some).map_err(|mut fault| {
            // The mistake is one of the map; what has to go is the field.
            fault.target.0.push(Segment::Key(entry.key.clone()));
            fault.at(entry.key_at)
        })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let entry = self.current.ok_or_else(|| Fault::new("a value without a key".to_owned()))?;
        seed.deserialize(&entry.node).map_err(|fault| fault.below(Segment::Key(entry.key.clone())))
    }
}

/// A key: text, or a number where numbers are asked for (`offsets: {0: 120}`).
struct Key<'de>(&'de str);

impl<'de> Deserializer<'de> for Key<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_borrowed_str(self.0)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0.parse() {
            Ok(number) => visitor.visit_i32(number),
            Err(_) => Err(de::Error::invalid_value(Unexpected::Str(self.0), &visitor)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

/// A variant as it is written.
struct Choice<'de> {
    name: &'de str,
    at: Position,
    content: Option<&'de Node>,
}

impl<'de> EnumAccess<'de> for Choice<'de> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        let name: StrDeserializer<'de, Fault> = self.name.into_deserializer();
        Ok((seed.deserialize(name).map_err(|fault| fault.at(self.at))?, self))
    }
}

impl<'de> VariantAccess<'de> for Choice<'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.content {
            None | Some(Node { value: Value::Null, .. }) => Ok(()),
            Some(_) => Err(Fault::new(format!("`{0}` takes nothing; write `{0}` alone", self.name))),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        let Some(node) = self.content else {
            let defaults = MapDeserializer::<_, Fault>::new(std::iter::empty::<(&str, &str)>());
            return seed
                .deserialize(defaults)
                .map_err(|_| Fault::new(format!("`{0}` needs a value: {{{0}: ...}}", self.name)));
        };
        seed.deserialize(node).map_err(|mut fault| {
            let segment = Segment::Key(self.name.to_owned());
            fault.path.0.push(segment.clone());
            // Without its content the variant cannot be read either, so then all of it goes.
            if !fault.target.0.is_empty() {
                fault.target.0.push(segment);
            }
            fault
        })
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, _visitor: V) -> Result<V::Value, Fault> {
        Err(Fault::new(format!("`{}` cannot be written in a spec", self.name)))
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        self.tuple_variant(fields.len(), visitor)
    }
}
