//! Well-known text (OGC Simple Features, ISO 19125-1): `POLYGON ((30 10, 40 40, 20 40, 30 10))`. Heights and measures are
//! read and left out.

use geo::{Coord, Geometry, GeometryCollection, LineString, MultiLineString, MultiPoint, MultiPolygon, Point, Polygon};

/// Collections nested deeper are no geometry.
const MAX_DEPTH: usize = 16;

/// The geometry that all of `text` is.
pub(super) fn parse(text: &str) -> Option<Geometry> {
    let mut reader = Reader { rest: text };
    // PostGIS puts the number of the coordinate system in front.
    if reader.rest.trim_start().get(..5).is_some_and(|start| start.eq_ignore_ascii_case("srid=")) {
        reader.rest = reader.rest.split_once(';')?.1;
    }
    let geometry = reader.geometry(0)?;
    reader.rest.trim().is_empty().then_some(geometry)
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn word(&mut self) -> &'a str {
        let rest = self.rest.trim_start();
        let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let (word, rest) = rest.split_at(end);
        self.rest = rest;
        word
    }

    fn skip(&mut self, expected: char) -> Option<()> {
        self.rest = self.rest.trim_start().strip_prefix(expected)?;
        Some(())
    }

    fn number(&mut self) -> Option<f64> {
        let rest = self.rest.trim_start();
        let end = rest.find(|c: char| c.is_whitespace() || matches!(c, ',' | '(' | ')')).unwrap_or(rest.len());
        let (number, rest) = rest.split_at(end);
        self.rest = rest;
        number.parse().ok()
    }

    fn geometry(&mut self, depth: usize) -> Option<Geometry> {
        if depth > MAX_DEPTH {
            return None;
        }
        let kind = self.word().to_ascii_uppercase();
        let mut next = Self { rest: self.rest };
        let mut word = next.word().to_ascii_uppercase();
        if matches!(word.as_str(), "Z" | "M" | "ZM") {
            self.rest = next.rest;
            word = next.word().to_ascii_uppercase();
        }
        let empty = word == "EMPTY";
        if empty {
            self.rest = next.rest;
        }
        Some(match kind.as_str() {
            // There is no point that is none.
            "POINT" if empty => MultiPoint(vec![]).into(),
            "POINT" => {
                self.skip('(')?;
                let point = Point(self.position()?);
                self.skip(')')?;
                point.into()
            }
            "LINESTRING" if empty => LineString(vec![]).into(),
            "LINESTRING" => self.line()?.into(),
            "POLYGON" if empty => Polygon::new(LineString(vec![]), vec![]).into(),
            "POLYGON" => self.polygon()?.into(),
            "MULTIPOINT" if empty => MultiPoint(vec![]).into(),
            "MULTIPOINT" => MultiPoint(self.list(Self::point)?).into(),
            "MULTILINESTRING" if empty => MultiLineString(vec![]).into(),
            "MULTILINESTRING" => MultiLineString(self.list(Self::line)?).into(),
            "MULTIPOLYGON" if empty => MultiPolygon(vec![]).into(),
            "MULTIPOLYGON" => MultiPolygon(self.list(Self::polygon)?).into(),
            "GEOMETRYCOLLECTION" if empty => Geometry::GeometryCollection(GeometryCollection(vec![])),
            "GEOMETRYCOLLECTION" => {
                Geometry::GeometryCollection(GeometryCollection(self.list(|r| r.geometry(depth + 1))?))
            }
            _ => return None,
        })
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        self.skip('(')?;
        let mut items = vec![item(self)?];
        while self.skip(',').is_some() {
            items.push(item(self)?);
        }
        self.skip(')')?;
        Some(items)
    }

    fn polygon(&mut self) -> Option<Polygon> {
        let mut rings = self.list(Self::line)?.into_iter();
        Some(Polygon::new(rings.next()?, rings.collect()))
    }

    fn line(&mut self) -> Option<LineString> {
        Some(LineString(self.list(Self::position)?))
    }

    /// A point of MULTIPOINT, in parentheses or without.
    fn point(&mut self) -> Option<Point> {
        if self.skip('(').is_none() {
            return Some(Point(self.position()?));
        }
        let point = Point(self.position()?);
        self.skip(')')?;
        Some(point)
    }

    fn position(&mut self) -> Option<Coord> {
        let position = Coord { x: self.number()?, y: self.number()? };
        while !self.rest.trim_start().starts_with([',', ')']) {
            self.number()?;
        }
        Some(position)
    }
}
