//! Protobuf schemas: compiled from `.proto` text in pure Rust, or read from a descriptor set, with the columns that a query
//! sees of a message.

use std::path::{Path, PathBuf};

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use tidemill_engine::datetime_type;

use crate::formats::{
    Declared, LeftOut,
    avro::schema::{list_type, map_type},
};

/// Columns and members that a message may make: a few messages that contain each other twice can make 2^60.
const MAX_COLUMNS: usize = 10_000;
/// Messages in one another beyond this are left out.
const MAX_DEPTH: usize = 64;
/// Name of a schema's own file where it has none.
const MAIN_FILE: &str = "schema.proto";

/// Compiled files.
#[derive(Clone, Debug)]
pub struct ProtobufSchema {
    pool: DescriptorPool,
    /// The file whose messages the indexes of a registry count; of several files the last.
    main: String,
}

impl ProtobufSchema {
    /// Compiles files; imports are looked for in `includes`, or beside the files where there are none.
    ///
    /// # Errors
    /// The compiler's words.
    pub fn of_files(files: &[PathBuf], includes: &[PathBuf]) -> Result<Self, String> {
        let beside = files.iter().map(|file| file.parent().unwrap_or(Path::new("")).to_owned());
        let includes: Vec<PathBuf> = if includes.is_empty() { beside.collect() } else { includes.to_vec() };
        let mut compiler = protox::Compiler::new(&includes).map_err(|error| error.to_string())?;
        compiler.include_imports(true);
        for file in files {
            compiler.open_file(file).map_err(|error| format!("cannot compile `{}`: {error}", file.display()))?;
        }
        let main = compiler.files().filter(|file| !file.is_import()).last().map(|file| file.name().to_owned());
        Ok(Self { pool: compiler.descriptor_pool(), main: main.unwrap_or_default() })
    }

    /// Compiles a file from its text, with those that it imports by name.
    ///
    /// # Errors
    /// The compiler's words.
    pub fn of_texts(text: &str, imports: &[(String, String)]) -> Result<Self, String> {
        let mut texts = imports.to_vec();
        texts.push((MAIN_FILE.to_owned(), text.to_owned()));
        let mut resolver = ChainFileResolver::new();
        resolver.add(Texts(texts));
        resolver.add(GoogleFileResolver::new());
        let mut compiler = protox::Compiler::with_file_resolver(resolver);
        compiler.include_imports(true);
        compiler.open_file(MAIN_FILE).map_err(|error| format!("no Protobuf schema: {error}"))?;
        Ok(Self { pool: compiler.descriptor_pool(), main: MAIN_FILE.to_owned() })
    }

    /// Reads a compiled `FileDescriptorSet`, as `protoc --include_imports --descriptor_set_out` writes it.
    ///
    /// # Errors
    /// Bytes that are none, or lack an import.
    pub fn of_descriptor_set(bytes: &[u8]) -> Result<Self, String> {
        let pool = DescriptorPool::decode(bytes).map_err(|error| format!("no descriptor set: {error}"))?;
        let main = pool.files().last().map(|file| file.name().to_owned()).unwrap_or_default();
        Ok(Self { pool, main })
    }

    /// The message of this full name; without a name the only top-level message of the main file.
    ///
    /// # Errors
    /// When there is none, with those that exist.
    pub fn message(&self, name: Option<&str>) -> Result<ProtobufMessage, String> {
        let main = self.pool.get_file_by_name(&self.main);
        let own: Vec<_> = main.iter().flat_map(|file| file.messages().collect::<Vec<_>>()).collect();
        let found = match (name, own.as_slice()) {
            (Some(name), _) => self.pool.get_message_by_name(name),
            (None, [only]) => Some(only.clone()),
            (None, _) => None,
        };
        found.map(ProtobufMessage).ok_or_else(|| {
            let mut names: Vec<_> = own.iter().map(|message| format!("`{}`", message.full_name())).collect();
            names.truncate(20);
            let what = name.map_or("several messages: `message` says which".to_owned(), |name| {
                format!("unknown message `{name}`")
            });
            format!("{what}; available: {}", names.join(", "))
        })
    }

    /// The first message of the main file.
    #[must_use]
    pub fn first_message(&self) -> Option<ProtobufMessage> {
        self.message_at(&[0])
    }

    /// The message at these indexes: of the file's messages, then of the messages inside.
    pub(super) fn message_at(&self, indexes: &[usize]) -> Option<ProtobufMessage> {
        let (first, inner) = indexes.split_first()?;
        let mut message = self.pool.get_file_by_name(&self.main)?.messages().nth(*first)?;
        for index in inner {
            let child = message.child_messages().nth(*index)?;
            message = child;
        }
        Some(ProtobufMessage(message))
    }
}

/// Files by name.
struct Texts(Vec<(String, String)>);

impl FileResolver for Texts {
    fn resolve_path(&self, path: &Path) -> Option<String> {
        path.to_str().map(str::to_owned)
    }

    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match self.0.iter().find(|(known, _)| known == name) {
            Some((name, text)) => File::from_source(name, text),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

/// A type of message.
#[derive(Clone, Debug)]
pub struct ProtobufMessage(pub(in crate::formats) MessageDescriptor);

/// Messages that mean more than their fields.
pub(in crate::formats) enum WellKnown {
    Timestamp,
    Duration,
    /// A value that may be absent; the kind of its one field.
    Wrapper(Kind),
}

impl WellKnown {
    pub(in crate::formats) fn of(message: &MessageDescriptor) -> Option<Self> {
        let name = message.full_name().strip_prefix("google.protobuf.")?;
        match name {
            "Timestamp" => Some(Self::Timestamp),
            "Duration" => Some(Self::Duration),
            "DoubleValue" | "FloatValue" | "Int64Value" | "UInt64Value" | "Int32Value" | "UInt32Value"
            | "BoolValue" | "StringValue" | "BytesValue" => {
                message.get_field(1).map(|field| Self::Wrapper(field.kind()))
            }
            _ => None,
        }
    }
}

impl ProtobufMessage {
    /// Its full name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.full_name()
    }

    /// The columns of its fields, all nullable, and the fields that can be none.
    ///
    /// # Errors
    /// When it makes too many.
    pub fn columns(&self) -> Result<Declared, String> {
        let mut columns = Columns { open: vec![self.0.full_name().to_owned()], left_out: Vec::new(), count: 0 };
        let fields = columns.members(&self.0, "");
        if columns.count > MAX_COLUMNS {
            return Err(format!("message `{}` makes more than {MAX_COLUMNS} columns", self.name()));
        }
        Ok(Declared { schema: Schema::new(fields).into(), left_out: columns.left_out })
    }
}

struct Columns {
    /// Messages around the one at hand.
    open: Vec<String>,
    left_out: Vec<LeftOut>,
    count: usize,
}

impl Columns {
    fn members(&mut self, message: &MessageDescriptor, path: &str) -> Fields {
        let mut members = Vec::<FieldRef>::new();
        // In the order of the file, not of the numbers.
        for proto in &message.descriptor_proto().field {
            self.count += 1;
            let Some(field) = message.get_field_by_name(proto.name()).filter(|_| self.count <= MAX_COLUMNS) else {
                continue;
            };
            let path = format!("{path}{}", field.name());
            match self.field_type(&field, &path) {
                Ok(data_type) => members.push(Field::new(field.name(), data_type, true).into()),
                Err(reason) => self.left_out.push(LeftOut { path, reason }),
            }
        }
        members.into()
    }

    fn field_type(&mut self, field: &FieldDescriptor, path: &str) -> Result<DataType, String> {
        if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
            let value = self.data_type(&entry.map_entry_value_field().kind(), &format!("{path}[].value"))?;
            return Ok(map_type(value));
        }
        if field.is_list() {
            return Ok(list_type(self.data_type(&field.kind(), &format!("{path}[]"))?));
        }
        self.data_type(&field.kind(), path)
    }

    fn data_type(&mut self, kind: &Kind, path: &str) -> Result<DataType, String> {
        Ok(match kind {
            Kind::Double | Kind::Float => DataType::Float64,
            Kind::Bool => DataType::Boolean,
            Kind::String | Kind::Bytes | Kind::Enum(_) => DataType::Utf8,
            Kind::Message(message) => match WellKnown::of(message) {
                Some(WellKnown::Timestamp) => datetime_type(),
                Some(WellKnown::Duration) => DataType::Utf8,
                Some(WellKnown::Wrapper(kind)) => self.data_type(&kind, path)?,
                None => {
                    let name = message.full_name();
                    if matches!(name, "google.protobuf.Struct" | "google.protobuf.Value" | "google.protobuf.ListValue")
                    {
                        return Err(format!("`{name}` has other fields in each message"));
                    }
                    if self.open.iter().any(|open| open == name) || self.open.len() >= MAX_DEPTH {
                        return Err(format!("its message `{name}` contains itself"));
                    }
                    self.open.push(name.to_owned());
                    let members = self.members(message, &format!("{path}."));
                    self.open.pop();
                    if members.is_empty() {
                        return Err(format!("message `{name}` has no fields that can be columns"));
                    }
                    DataType::Struct(members)
                }
            },
            _ => DataType::Int64,
        })
    }
}
