use std::io::Write;

use serde::de::{IntoDeserializer, value::Error, value::MapDeserializer};

use super::*;

fn parse(kind: &str, name: &str) -> Result<SecretRef, Error> {
    SecretRef::deserialize(MapDeserializer::new(std::iter::once((kind, name))))
}

#[test]
fn a_reference_is_a_map_of_one() {
    assert_eq!(parse("env", "A").unwrap(), SecretRef::Env("A".into()));
    assert_eq!(parse("file", "a.pem").unwrap().below(Path::new("/x")), SecretRef::File("/x/a.pem".into()));
    assert_eq!(parse("key_vault", "a").unwrap().to_string(), "{key_vault: a}");
    assert!(parse("evn", "A").unwrap_err().to_string().contains("unknown kind of reference `evn`"));
    assert_eq!(parse("env", "").unwrap_err().to_string(), "a reference needs a name");
}

#[test]
fn an_inline_secret_is_refused_without_its_value() {
    let text: Result<_, Error> = SecretRef::deserialize("hunter2".into_deserializer());
    let number: Result<_, Error> = SecretRef::deserialize(1234i64.into_deserializer());
    for error in [text.unwrap_err(), number.unwrap_err()] {
        assert_eq!(
            error.to_string(),
            "a secret is given by reference, never in the spec: write `{env: NAME}`, `{file: PATH}` or `{key_vault: NAME}`"
        );
    }
}

#[test]
fn a_file_loses_one_closing_line_break() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"hunter2\r\n").unwrap();
    let secret = from_file(file.path()).unwrap();
    assert_eq!(secret.expose(), b"hunter2");
}

#[test]
fn errors_name_the_reference() {
    let missing = from_environment("TIDEMILL_NO_SUCH_VARIABLE").unwrap_err();
    assert_eq!(missing.to_string(), "environment variable `TIDEMILL_NO_SUCH_VARIABLE` is not set");
    let missing = from_file(Path::new("/no/such/file")).unwrap_err();
    assert_eq!(missing.to_string(), "cannot read secret file `/no/such/file`");
    let empty = tempfile::NamedTempFile::new().unwrap();
    let error = from_file(empty.path()).unwrap_err();
    assert!(error.to_string().ends_with("is empty"));
    assert!(from_environment("PATH").is_ok());
}
