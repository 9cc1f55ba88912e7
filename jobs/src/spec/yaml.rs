//! YAML text -> a tree of [`Node`]s that know their positions.
//!
//! Built from the parser's events rather than by a loader, because the tree has bounds that a loader does not have (a
//! depth, a number of nodes, so that neither `[[[[...` nor aliases of aliases harm us), keeps the position of each key,
//! and goes on after a duplicate key.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use super::problem::{Path, Position, Segment};

/// Deepest nesting; a spec needs about ten levels, a nested `schema` a few more.
const MAX_DEPTH: usize = 64;
/// Most nodes, keys and those that aliases repeat included; a spec has some hundreds.
const MAX_NODES: usize = 10_000;

/// A value and where it starts.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text {
        text: String,
        style: ScalarStyle,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// Found to be wrong and reported: from then on as if it were not there.
    Removed,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_at: Position,
    pub(super) node: Node,
}

/// A mistake that the YAML level sees.
#[derive(Debug)]
pub(super) struct YamlFault {
    pub(super) at: Position,
    pub(super) message: String,
}

impl Node {
    /// The node at a path; removed ones are found too.
    pub(super) fn find(&self, path: &Path) -> Option<&Node> {
        path.0.iter().try_fold(self, |node, segment| node.child(segment))
    }

    /// A path as it was written and its position; where there is no such node, the position of the last one on the way.
    /// Elements that were removed from a list do not count in `path`, but do in what is returned.
    pub(super) fn locate(&self, path: &Path) -> (Path, Position) {
        let (mut node, mut written) = (Some(self), Path::default());
        let mut at = self.at;
        for segment in &path.0 {
            let (segment, child) = match (node.map(|node| &node.value), segment) {
                (Some(Value::List(items)), Segment::Index(index)) => {
                    let mut left = items.iter().enumerate().filter(|(_, item)| !matches!(item.value, Value::Removed));
                    let (index, item) = left.nth(*index).map_or((*index, None), |(index, item)| (index, Some(item)));
                    (Segment::Index(index), item)
                }
                _ => (segment.clone(), node.and_then(|node| node.child(segment))),
            };
            written.0.push(segment);
            node = child;
            at = child.map_or(at, |child| child.at);
        }
        (written, at)
    }

    /// Takes the node at a path out; false when there was none.
    pub(super) fn remove(&mut self, path: &Path) -> bool {
        let mut node = self;
        for segment in &path.0 {
            let child = match (&mut node.value, segment) {
                (Value::Map(entries), Segment::Key(key)) => {
                    entries.iter_mut().find(|entry| entry.key == *key).map(|entry| &mut entry.node)
                }
                (Value::List(items), Segment::Index(index)) => items.get_mut(*index),
                _ => None,
            };
            match child {
                Some(child) => node = child,
                None => return false,
            }
        }
        !matches!(std::mem::replace(&mut node.value, Value::Removed), Value::Removed)
    }

    fn child(&self, segment: &Segment) -> Option<&Node> {
        match (&self.value, segment) {
            (Value::Map(entries), Segment::Key(key)) => {
                entries.iter().find(|entry| entry.key == *key).map(|entry| &entry.node)
            }
            (Value::List(items), Segment::Index(index)) => items.get(*index),
            _ => None,
        }
    }
}

/// Reads one document. Faults are collected; there is no tree after one that makes the rest unreadable.
pub(super) fn parse(text: &str) -> (Option<Node>, Vec<YamlFault>) {
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let step = match event {
            Ok((event, span)) => builder.take(event, span),
            Err(error) => Err(fault(*error.marker(), format!("not valid YAML: {}", error.info()))),
        };
        if let Err(fatal) = step {
            builder.faults.push(fatal);
            return (None, builder.faults);
        }
    }
    (builder.root, builder.faults)
}

/// A collection that is still open.
struct Frame {
    at: Position,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    /// With the line of each key.
    Map {
        entries: Vec<Entry>,
        lines: HashMap<String, usize>,
        key: Option<(String, Position)>,
    },
}

#[derive(Default)]
struct Builder {
    open: Vec<Frame>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    faults: Vec<YamlFault>,
}

impl Builder {
    /// # Errors
    /// A fault after which nothing sensible can follow.
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), YamlFault> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(fault(span.start, "expected one YAML document, found a second".to_owned()))
            }
            Event::DocumentStart(_) => Ok(()),
            Event::Alias(anchor) => {
                let Some(mut node) = self.anchors.get(&anchor).cloned() else {
                    return Err(fault(span.start, "an alias cannot stand inside its own anchor".to_owned()));
                };
                node.at = position(span.start);
                self.count(size(&node), span.start)?;
                self.add(node, 0)
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1, span.start)?;
                self.check_tag(tag.as_deref(), span.start);
                let value = match (style, tag) {
                    (ScalarStyle::Plain, None) => resolve(&text),
                    _ => Value::Text { text: text.into_owned(), style },
                };
                self.add(Node { at: position(span.start), value }, anchor)
            }
            Event::SequenceStart(anchor, tag) => self.open(Content::List(Vec::new()), anchor, tag.as_deref(), span),
            Event::MappingStart(anchor, tag) => self.open(
                Content::Map { entries: Vec::new(), lines: HashMap::new(), key: None },
                anchor,
                tag.as_deref(),
                span,
            ),
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Frame { at, anchor, content }) = self.open.pop() else { return Ok(()) };
                let value = match content {
                    Content::List(items) => Value::List(items),
                    Content::Map { entries, .. } => Value::Map(entries),
                };
                self.add(Node { at, value }, anchor)
            }
        }
    }

    fn open(&mut self, content: Content, anchor: usize, tag: Option<&Tag>, span: Span) -> Result<(), YamlFault> {
        self.count(1, span.start)?;
        self.check_tag(tag, span.start);
        if self.open.len() == MAX_DEPTH {
            return Err(fault(span.start, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.open.push(Frame { at: position(span.start), anchor, content });
        Ok(())
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), YamlFault> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|frame| &mut frame.content) {
            None => self.root = Some(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map { entries, lines, key }) => match key.take() {
                None => *key = Some((key_text(&node)?, node.at)),
                Some((key, key_at)) => match lines.get(&key) {
                    Some(first) => {
                        let message = format!("duplicate key `{key}`; first given in line {first}");
                        self.faults.push(YamlFault { at: key_at, message });
                    }
                    None => {
                        lines.insert(key.clone(), key_at.line);
                        entries.push(Entry { key, key_at, node });
                    }
                },
            },
        }
        Ok(())
    }

    fn count(&mut self, nodes: usize, at: Marker) -> Result<(), YamlFault> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES { Err(fault(at, format!("more than {MAX_NODES} values"))) } else { Ok(()) }
    }

    /// `!!str` is honoured; no other tag means anything in a spec.
    fn check_tag(&mut self, tag: Option<&Tag>, at: Marker) {
        if let Some(tag) = tag.filter(|tag| !(tag.is_yaml_core_schema() && tag.suffix == "str")) {
            self.faults.push(fault(at, format!("unknown tag `{tag}`")));
        }
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.value {
        Value::List(items) => items.iter().map(size).sum(),
        Value::Map(entries) => entries.iter().map(|entry| size(&entry.node)).sum(),
        _ => 0,
    }
}

fn key_text(node: &Node) -> Result<String, YamlFault> {
    match &node.value {
        Value::Text { text, .. } => Ok(text.clone()),
        Value::Int(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Null => Ok("null".to_owned()),
        Value::List(_) | Value::Map(_) | Value::Removed => {
            Err(YamlFault { at: node.at, message: "expected a name as key, found a list or a map".to_owned() })
        }
    }
}

/// A plain scalar by YAML 1.2's core schema (10.3.2); in its words `yes` and `on` are text.
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        _ => {}
    }
    let radix =
        text.strip_prefix("0x").map(|digits| (digits, 16)).or(text.strip_prefix("0o").map(|digits| (digits, 8)));
    let integer = match radix {
        Some((digits, radix)) => i64::from_str_radix(digits, radix).ok(),
        None => text.parse().ok(),
    };
    // Rust reads words such as `nan` and `infinity` as floats, the core schema does not.
    let is_numeric = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    match (integer, text.parse().ok().filter(|_| is_numeric)) {
        (Some(integer), _) => Value::Int(integer),
        (None, Some(float)) => Value::Float(float),
        (None, None) => Value::Text { text: text.to_owned(), style: ScalarStyle::Plain },
    }
}

fn fault(at: Marker, message: String) -> YamlFault {
    YamlFault { at: position(at), message }
}

fn position(at: Marker) -> Position {
    Position { line: at.line().max(1), column: at.col() + 1 }
}
