//! Geospatial functions. Positions are longitude, latitude in degrees, as in GeoJSON; what lies in or across another is
//! computed on the plane of the two, as ASA does from level 1.2 on, so that the direction of a ring does not matter.
//! Distances are along the surface of the WGS 84 ellipsoid, by Karney's algorithm ("Algorithms for geodesics", Journal of
//! Geodesy 87, 2013).

use std::{borrow::Cow, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, Float64Array, Float64Builder, ListArray, ListBuilder, StringArray, StructArray},
    buffer::NullBuffer,
    datatypes::{DataType, Field, Fields, Float64Type, Int64Type},
};
use datafusion_common::{DataFusionError, Result, exec_datafusion_err, exec_err};
use geo::{
    Contains, Coord, Distance, Geodesic, Geometry, Intersects, LineString, MultiPolygon, Point, Polygon, Relate,
};

use super::{
    Arg::{Float, Geometry as Shape},
    Args, Function,
    Returns::{self, Int},
    function,
    json::Values,
    wkt,
};

pub(super) static FUNCTIONS: &[Function] = &[
    function("createpoint", &[Float, Float], Returns::Geometry(1), create_point)
        .doc_of(
            "CreatePoint(latitude, longitude)",
            "a GeoJSON point, whose coordinates are longitude, latitude",
            &[("CreatePoint(3.0, -10.2)", r#"{"type":"Point","coordinates":[-10.2,3.0]}"#)],
        )
        .page("createpoint"),
    function("createlinestring", &[Shape, Shape], Returns::Geometry(2), create_line)
        .repeats()
        .doc_of(
            "CreateLineString(point, point, ...)",
            "a GeoJSON line through the points",
            &[(
                "CreateLineString(CreatePoint(3.0, -10.2), CreatePoint(10.0, 10.5))",
                r#"{"type":"LineString","coordinates":[[-10.2,3.0],[10.5,10.0]]}"#,
            )],
        )
        .page("createlinestring"),
    function("createpolygon", &[Shape, Shape, Shape], Returns::Geometry(3), create_polygon)
        .repeats()
        .doc_of(
            "CreatePolygon(point, point, point, ...)",
            "a GeoJSON polygon without holes; the last point is the first again",
            &[(
                "CreatePolygon(CreatePoint(0, 0), CreatePoint(0, 1), CreatePoint(1, 1), CreatePoint(0, 0))",
                r#"{"type":"Polygon","coordinates":[[[0.0,0.0],[1.0,0.0],[1.0,1.0],[0.0,0.0]]]}"#,
            )],
        )
        .page("createpolygon"),
    function("st_distance", &[Shape, Shape], Returns::Float, distance)
        .doc_of(
            "ST_DISTANCE(point, point)",
            "metres between two points on the WGS 84 ellipsoid; 0 when one is no point",
            &[("ST_DISTANCE(CreatePoint(0, 0), CreatePoint(0, 0))", "0.0")],
        )
        .page("st-distance"),
    function("st_intersects", &[Shape, Shape], Int, intersects)
        .doc_of(
            "ST_INTERSECTS(a, b)",
            "1 when the two have a point in common, else 0",
            &[("ST_INTERSECTS('LINESTRING (0 0, 10 10)', 'LINESTRING (0 10, 10 0)')", "1")],
        )
        .page("st-intersects"),
    function("st_overlaps", &[Shape, Shape], Int, overlaps)
        .doc_of(
            "ST_OVERLAPS(polygon, polygon)",
            "1 when each has a part in common with the other and a part of its own, else 0: also when one contains the other",
            &[("ST_OVERLAPS('POLYGON ((0 0, 2 0, 2 2, 0 2, 0 0))', 'POLYGON ((1 1, 3 1, 3 3, 1 3, 1 1))')", "1")],
        )
        .page("st-overlaps"),
    function("st_within", &[Shape, Shape], Int, within)
        .doc_of(
            "ST_WITHIN(a, polygon)",
            "1 when a lies in the polygon, else 0; on its border alone is not in it",
            &[("ST_WITHIN(CreatePoint(1, 1), 'POLYGON ((0 0, 2 0, 2 2, 0 2, 0 0))')", "1")],
        )
        .page("st-within"),
];

/// The type of a GeoJSON record: of a point at depth 1, a line at 2, a polygon at 3.
pub(super) fn record_type(depth: usize) -> DataType {
    DataType::Struct(record_fields(depth))
}

fn record_fields(depth: usize) -> Fields {
    let coordinates = (0..depth).fold(DataType::Float64, |t, _| DataType::new_list(t, true));
    Fields::from(vec![Field::new("type", DataType::Utf8, true), Field::new("coordinates", coordinates, true)])
}

/// Whether values of this type can be read as geometries.
pub(super) fn may_be(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 => true,
        DataType::Struct(fields) => ["type", "coordinates"].iter().all(|name| fields.find(name).is_some()),
        _ => false,
    }
}

/// The geometries of an argument; a constant is read once.
struct Geometries<'a> {
    args: &'a Args,
    arg: usize,
    constant: Option<Option<Geometry>>,
}

impl<'a> Geometries<'a> {
    fn of(args: &'a Args, arg: usize) -> Result<Self> {
        let constant = args.is_constant(arg).then(|| read(args, arg, 0)).transpose()?;
        Ok(Self { args, arg, constant })
    }

    fn get(&self, row: usize) -> Result<Option<Cow<'_, Geometry>>> {
        match &self.constant {
            Some(geometry) => Ok(geometry.as_ref().map(Cow::Borrowed)),
            None => Ok(read(self.args, self.arg, row)?.map(Cow::Owned)),
        }
    }

    fn point(&self, row: usize) -> Result<Option<Coord>> {
        match self.get(row)?.as_deref() {
            None => Ok(None),
            Some(Geometry::Point(point)) => Ok(Some(point.0)),
            Some(_) => exec_err!("expected a point as argument {}, found another geometry", self.arg + 1),
        }
    }
}

fn read(args: &Args, arg: usize, row: usize) -> Result<Option<Geometry>> {
    let at = args.index(arg, row);
    if args.column(arg).is_null(at) {
        return Ok(None);
    }
    let (geometry, text) = match args.data_type(arg) {
        DataType::Utf8 => {
            let text = args.text(arg).get(row).unwrap_or_default();
            (of_text(text), text.to_owned())
        }
        DataType::LargeUtf8 => {
            let Some(value) = Values::of(args, arg).get(row) else { return Ok(None) };
            let text = value.string().unwrap_or_else(|| value.text().to_owned());
            (of_text(&text), text)
        }
        _ => (of_record(args.column(arg).as_struct(), at), "the record".to_owned()),
    };
    match geometry.filter(is_finite) {
        Some(geometry) => Ok(Some(geometry)),
        None => exec_err!("`{text:.200}` is no geometry; expected GeoJSON or WKT"),
    }
}

/// GeoJSON or WKT.
fn of_text(text: &str) -> Option<Geometry> {
    if text.trim_start().starts_with('{') {
        return Geometry::try_from(text.parse::<geojson::GeoJson>().ok()?).ok();
    }
    wkt::parse(text)
}

fn is_finite(geometry: &Geometry) -> bool {
    use geo::CoordsIter;
    geometry.coords_iter().all(|c| c.x.is_finite() && c.y.is_finite())
}

/// A GeoJSON record by its typed fields.
fn of_record(record: &StructArray, at: usize) -> Option<Geometry> {
    let kind = record.column_by_name("type")?.as_string_opt::<i32>()?;
    let list = record.column_by_name("coordinates")?.as_list_opt::<i32>()?;
    if kind.is_null(at) || list.is_null(at) {
        return None;
    }
    Some(match kind.value(at) {
        "Point" => Geometry::Point(position(list, at)?.into()),
        "LineString" => Geometry::LineString(line(list, at)?),
        "Polygon" => Geometry::Polygon(polygon(list, at)?),
        "MultiPoint" => Geometry::MultiPoint(line(list, at)?.into_points().into()),
        "MultiLineString" => Geometry::MultiLineString(nested(list, at, line)?.into_iter().collect()),
        "MultiPolygon" => Geometry::MultiPolygon(MultiPolygon(nested(list, at, polygon)?)),
        _ => return None,
    })
}

fn polygon(list: &ListArray, at: usize) -> Option<Polygon> {
    let mut rings = nested(list, at, line)?.into_iter();
    Some(Polygon::new(rings.next()?, rings.collect()))
}

fn line(list: &ListArray, at: usize) -> Option<LineString> {
    Some(LineString(nested(list, at, position)?))
}

/// What the lists inside the list at a place are.
fn nested<T>(list: &ListArray, at: usize, read: impl Fn(&ListArray, usize) -> Option<T>) -> Option<Vec<T>> {
    let inner = list.values().as_list_opt::<i32>()?;
    range(list, at).map(|at| if inner.is_null(at) { None } else { read(inner, at) }).collect()
}

fn range(list: &ListArray, at: usize) -> std::ops::Range<usize> {
    list.value_offsets()[at] as usize..list.value_offsets()[at + 1] as usize
}

/// Longitude and latitude; a height is left out.
fn position(list: &ListArray, at: usize) -> Option<Coord> {
    let range = range(list, at);
    let number = |at: usize| {
        let values = list.values();
        if at >= range.end || values.is_null(at) {
            return None;
        }
        match values.data_type() {
            DataType::Float64 => Some(values.as_primitive::<Float64Type>().value(at)),
            DataType::Int64 => Some(values.as_primitive::<Int64Type>().value(at) as f64),
            _ => None,
        }
    };
    Some(Coord { x: number(range.start)?, y: number(range.start + 1)? })
}

fn create_point(args: &Args) -> Result<ArrayRef> {
    let (latitude, longitude) = (args.float(0), args.float(1));
    let points: Vec<Option<Coord>> =
        (0..args.rows()).map(|i| Some(Coord { x: longitude.get(i)?, y: latitude.get(i)? })).collect();
    let mut coordinates = ListBuilder::new(Float64Builder::new());
    for point in &points {
        coordinates.append_option(point.map(|c| [Some(c.x), Some(c.y)]));
    }
    record("Point", 1, Arc::new(coordinates.finish()))
}

fn create_line(args: &Args) -> Result<ArrayRef> {
    record("LineString", 2, Arc::new(points(args)?))
}

fn create_polygon(args: &Args) -> Result<ArrayRef> {
    let last = args.len() - 1;
    let (first, end) = (Geometries::of(args, 0)?, Geometries::of(args, last)?);
    for row in 0..args.rows() {
        let (Some(first), Some(end)) = (first.point(row)?, end.point(row)?) else { continue };
        if first != end {
            return exec_err!("the last point of a polygon must be its first again");
        }
    }
    let rings = points(args)?;
    let offsets = arrow::buffer::OffsetBuffer::from_lengths(std::iter::repeat_n(1, rings.len()));
    let item = Arc::new(Field::new_list_field(rings.data_type().clone(), true));
    let nulls = rings.nulls().cloned();
    record("Polygon", 3, Arc::new(ListArray::try_new(item, offsets, Arc::new(rings), nulls)?))
}

/// A list of positions from arguments that are points; null where one is.
fn points(args: &Args) -> Result<ListArray> {
    let columns = (0..args.len()).map(|arg| Geometries::of(args, arg)).collect::<Result<Vec<_>>>()?;
    let mut out = ListBuilder::new(ListBuilder::new(Float64Builder::new()));
    for row in 0..args.rows() {
        let points = columns.iter().map(|c| c.point(row)).collect::<Result<Option<Vec<_>>>>()?;
        for point in points.iter().flatten() {
            out.values().append_value([Some(point.x), Some(point.y)]);
        }
        out.append(points.is_some());
    }
    Ok(out.finish())
}

/// GeoJSON records of one kind; null where there are no coordinates.
fn record(kind: &str, depth: usize, coordinates: ArrayRef) -> Result<ArrayRef> {
    let kinds = StringArray::from_iter_values(std::iter::repeat_n(kind, coordinates.len()));
    let nulls: Option<NullBuffer> = coordinates.nulls().cloned();
    Ok(Arc::new(StructArray::try_new(record_fields(depth), vec![Arc::new(kinds), coordinates], nulls)?))
}

fn distance(args: &Args) -> Result<ArrayRef> {
    let (a, b) = (Geometries::of(args, 0)?, Geometries::of(args, 1)?);
    let metres = |row| -> Result<Option<f64>> {
        let (Some(a), Some(b)) = (a.get(row)?, b.get(row)?) else { return Ok(None) };
        match (a.as_ref(), b.as_ref()) {
            (Geometry::Point(a), Geometry::Point(b)) => between(*a, *b).map(Some),
            _ => Ok(Some(0.0)),
        }
    };
    Ok(Arc::new((0..args.rows()).map(metres).collect::<Result<Float64Array>>()?))
}

fn between(a: Point, b: Point) -> Result<f64> {
    for point in [a, b] {
        if !(-90.0..=90.0).contains(&point.y()) {
            return Err(latitude(point));
        }
    }
    Ok(Geodesic.distance(a, b))
}

fn latitude(point: Point) -> DataFusionError {
    exec_datafusion_err!("latitude {} is not within -90 and 90; coordinates are longitude, latitude", point.y())
}

fn intersects(args: &Args) -> Result<ArrayRef> {
    test(args, |a, b| a.intersects(b))
}

fn overlaps(args: &Args) -> Result<ArrayRef> {
    test(args, |a, b| a.relate(b).is_overlaps())
}

fn within(args: &Args) -> Result<ArrayRef> {
    test(args, |a, b| b.contains(a))
}

fn test(args: &Args, rule: impl Fn(&Geometry, &Geometry) -> bool) -> Result<ArrayRef> {
    let (a, b) = (Geometries::of(args, 0)?, Geometries::of(args, 1)?);
    args.to_ints(|row| {
        let (Some(a), Some(b)) = (a.get(row)?, b.get(row)?) else { return Ok(None) };
        Ok(Some(i64::from(rule(&a, &b))))
    })
}
