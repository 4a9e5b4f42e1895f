//! [`Config`]: what a store is told once, at [`ContentStore::init`](crate::ContentStore::init), and reads at every open.
//!
//! A document is a configuration **if and only if** `schemas/content_v1_3.schema.json` accepts it, no field stands in it
//! twice, and it has at most [`CONFIG_LEN_MAX`] bytes. The schema is made from the types of this file
//! (`cargo xtask schema`), and a test compares the two over good and bad documents. Three fields have one value each: they
//! say in the document what the store does in any case, and a document that says otherwise is refused.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::uri::TEMP_SUFFIX;

/// The longest configuration, in bytes.
pub const CONFIG_LEN_MAX: usize = 64 << 10;

/// The largest number a limit may be: 2^53 - 1, the last one that every reader of JSON keeps exactly. More than 8 PiB.
pub const LIMIT_MAX: u64 = (1 << 53) - 1;

/// The longest age of an orphan, in minutes: a year.
pub const ORPHAN_AGE_MINUTES_MAX: u64 = 365 * 24 * 60;

/// What the field `schema` says.
const SCHEMA: &str = "content_v1_3";

/// The configuration of a content store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Which schema the document follows: `content_v1_3`.
    schema: Fixed<SchemaField>,
    /// What the names of staged objects end in: `.nxpart`.
    #[serde(default)]
    temp_suffix: Fixed<TempSuffixField>,
    /// A replace is atomic: `true`.
    #[serde(default)]
    atomic_replace: Fixed<AtomicReplaceField>,
    /// Barriers are issued: `true`.
    #[serde(default)]
    fsync_barriers: Fixed<FsyncBarriersField>,
    /// Where a process that is being tested ends itself.
    #[serde(default, deserialize_with = "object")]
    pub crash_sim: CrashSim,
    /// How much each app may have.
    #[serde(default, deserialize_with = "object")]
    pub quota: Quota,
    /// What is done at open.
    #[serde(default, deserialize_with = "object")]
    pub recovery: RecoveryOptions,
    /// Whether small objects ride in the journal's commit record, and pay for their own barriers at the next checkpoint. The
    /// promises are the same.
    #[serde(default = "on")]
    pub fast_path: bool,
}

/// Where a process that is being tested ends itself. The store does not act on it; the command does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CrashSim {
    /// Whether it ends itself at all.
    pub enable: bool,
    /// At which points: the first time that one of them is reached.
    pub points: CrashPoints,
}

/// Different points, in the order in which they were given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct CrashPoints(Vec<CrashPoint>);

/// A point of the write path. These four are what the schema has; the environment variable of the simulator knows more of
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CrashPoint {
    /// A staged file has its hidden name.
    AfterCreate,
    /// Its bytes are written.
    AfterWrite,
    /// Its bytes are durable.
    AfterFsync,
    /// The name is durable.
    AfterDirsync,
}

/// How much each app may have. Staged objects count; directories do not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    /// The most bytes of objects and staged objects: their lengths, holes included.
    pub per_app_bytes: Whole<1, LIMIT_MAX, { 1 << 30 }>,
    /// The most objects and staged objects.
    pub per_app_files: Whole<1, LIMIT_MAX, 65_536>,
    /// The most staged bytes, in percent of `per_app_bytes`, rounded down. While it is replaced an object is charged twice, so
    /// one of more than half the quota can be written once and not replaced: hence 50.
    pub temp_ratio_pct: Whole<1, 100, 50>,
}

/// What is done at open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RecoveryOptions {
    /// How old a staged file must be before it is taken for an orphan, in minutes, wherever the lock of the root alone is no
    /// proof that its owner is gone.
    pub orphan_age_minutes: Whole<0, ORPHAN_AGE_MINUTES_MAX, 10>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            schema: Fixed::default(),
            temp_suffix: Fixed::default(),
            atomic_replace: Fixed::default(),
            fsync_barriers: Fixed::default(),
            crash_sim: CrashSim::default(),
            quota: Quota::default(),
            recovery: RecoveryOptions::default(),
            fast_path: on(),
        }
    }
}

fn on() -> bool {
    true
}

/// Why a document is no configuration. The message names the field and what it may be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It is too long.
    #[error("the configuration is too long: len={len} limit={limit}")]
    TooLong {
        /// Its bytes.
        len: usize,
        /// The most there may be.
        limit: usize,
    },
    /// It is no JSON.
    #[error("the configuration is no JSON: {detail}")]
    Syntax {
        /// What is wrong, and in which line and column.
        detail: String,
    },
    /// It is JSON, and a field is wrong.
    #[error("the configuration is not valid: `{field}`: {detail}")]
    Field {
        /// Which, with dots between the names; `.` is the whole document.
        field: String,
        /// What is wrong with it, what it may be, and in which line and column.
        detail: String,
    },
}

impl ConfigError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::TooLong { .. } | Self::Syntax { .. } => {
                "a configuration is one JSON object; `{\"schema\": \"content_v1_3\"}` is the smallest"
            }
            Self::Field { .. } => "every field is described in `schemas/content_v1_3.schema.json`",
        }
    }
}

impl Config {
    /// The configuration that a document is.
    ///
    /// # Errors
    /// [`ConfigError`]: what is wrong first.
    pub fn parse(document: &[u8]) -> Result<Self, ConfigError> {
        if document.len() > CONFIG_LEN_MAX {
            return Err(ConfigError::TooLong { len: document.len(), limit: CONFIG_LEN_MAX });
        }
        let mut json = serde_json::Deserializer::from_slice(document);
        let mut track = serde_path_to_error::Track::new();
        let found = object(serde_path_to_error::Deserializer::new(&mut json, &mut track));
        // What stands after the object is as wrong as what stands in it.
        found.and_then(|config| json.end().map(|()| config)).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => {
                ConfigError::Field { field: track.path().to_string(), detail: error.to_string() }
            }
            serde_json::error::Category::Syntax
            | serde_json::error::Category::Eof
            | serde_json::error::Category::Io => ConfigError::Syntax { detail: error.to_string() },
        })
    }

    /// The document, with every field in it.
    ///
    /// # Errors
    /// None that a configuration could cause; the encoder has one in its signature.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// The schema of these documents (JSON Schema, draft 2020-12), made from the types.
    #[must_use]
    pub fn schema() -> Value {
        let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
        let mut schema = settings.into_generator().into_root_schema_for::<Self>();
        schema.insert("title".to_owned(), SCHEMA.into());
        schema.to_value()
    }
}

impl Quota {
    /// The most bytes that an app may have staged.
    #[must_use]
    pub fn staged_bytes_max(&self) -> u64 {
        let (bytes, pct) = (u128::from(self.per_app_bytes.get()), u128::from(self.temp_ratio_pct.get()));
        // At most `per_app_bytes`, as the ratio is at most 100.
        u64::try_from(bytes * pct / 100).unwrap_or(u64::MAX)
    }
}

impl CrashPoint {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::AfterCreate, Self::AfterWrite, Self::AfterFsync, Self::AfterDirsync];

    const NAMES: [&'static str; 4] = ["after_create", "after_write", "after_fsync", "after_dirsync"];

    /// Its name, as it stands in a document and as the write path announces it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AfterCreate => "after_create",
            Self::AfterWrite => "after_write",
            Self::AfterFsync => "after_fsync",
            Self::AfterDirsync => "after_dirsync",
        }
    }
}

// The derived form would also take `{"after_create": null}`.
impl<'de> Deserialize<'de> for CrashPoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<'de, str>::deserialize(deserializer)?;
        let known = Self::ALL.into_iter().find(|point| point.name() == name);
        known.ok_or_else(|| D::Error::unknown_variant(&name, &Self::NAMES))
    }
}

impl CrashPoints {
    /// These points.
    ///
    /// # Errors
    /// The one that is there twice.
    pub fn new(points: impl IntoIterator<Item = CrashPoint>) -> Result<Self, CrashPoint> {
        let mut all = Self::default();
        points.into_iter().try_for_each(|point| all.push(point))?;
        Ok(all)
    }

    fn push(&mut self, point: CrashPoint) -> Result<(), CrashPoint> {
        if self.0.contains(&point) {
            return Err(point);
        }
        self.0.push(point);
        Ok(())
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = CrashPoint> {
        self.0.iter().copied()
    }
}

impl<'de> Deserialize<'de> for CrashPoints {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(PointsVisitor)
    }
}

struct PointsVisitor;

impl<'de> Visitor<'de> for PointsVisitor {
    type Value = CrashPoints;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of different names out of {}", CrashPoint::NAMES.join(", "))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<CrashPoints, A::Error> {
        let mut points = CrashPoints::default();
        // Bounded: a fifth one is one that is there already.
        while let Some(point) = names.next_element()? {
            points
                .push(point)
                .map_err(|twice| A::Error::custom(format!("`{}` is there twice", twice.name())))?;
        }
        Ok(points)
    }
}

impl JsonSchema for CrashPoints {
    fn schema_name() -> Cow<'static, str> {
        "CrashPoints".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array",
            "items": { "type": "string", "enum": CrashPoint::NAMES },
            "uniqueItems": true,
        })
    }
}

/// A whole number from `MIN` to `MAX`; `DEFAULT` where nothing is said.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Whole<const MIN: u64, const MAX: u64, const DEFAULT: u64>(u64);

/// A number is not in its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{found} is out of range: {min} to {max}")]
pub struct OutOfRange {
    /// What was given.
    pub found: u64,
    /// The least it may be.
    pub min: u64,
    /// The most it may be.
    pub max: u64,
}

impl<const MIN: u64, const MAX: u64, const DEFAULT: u64> Whole<MIN, MAX, DEFAULT> {
    const DEFAULT_IN_RANGE: () = assert!(MIN <= DEFAULT && DEFAULT <= MAX && MAX <= LIMIT_MAX);

    /// This number.
    ///
    /// # Errors
    /// [`OutOfRange`].
    pub fn new(number: u64) -> Result<Self, OutOfRange> {
        if (MIN..=MAX).contains(&number) {
            return Ok(Self(number));
        }
        Err(OutOfRange { found: number, min: MIN, max: MAX })
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64, const DEFAULT: u64> Default for Whole<MIN, MAX, DEFAULT> {
    fn default() -> Self {
        let () = Self::DEFAULT_IN_RANGE;
        Self(DEFAULT)
    }
}

impl<const MIN: u64, const MAX: u64, const DEFAULT: u64> TryFrom<u64> for Whole<MIN, MAX, DEFAULT> {
    type Error = OutOfRange;

    fn try_from(number: u64) -> Result<Self, OutOfRange> {
        Self::new(number)
    }
}

impl<const MIN: u64, const MAX: u64, const DEFAULT: u64> fmt::Debug for Whole<MIN, MAX, DEFAULT> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl<const MIN: u64, const MAX: u64, const DEFAULT: u64> Serialize for Whole<MIN, MAX, DEFAULT> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de, const MIN: u64, const MAX: u64, const DEFAULT: u64> Deserialize<'de> for Whole<MIN, MAX, DEFAULT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WholeVisitor::<MIN, MAX, DEFAULT>)
    }
}

struct WholeVisitor<const MIN: u64, const MAX: u64, const DEFAULT: u64>;

impl<const MIN: u64, const MAX: u64, const DEFAULT: u64> Visitor<'_> for WholeVisitor<MIN, MAX, DEFAULT> {
    type Value = Whole<MIN, MAX, DEFAULT>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from {MIN} to {MAX}")
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Self::Value, E> {
        Whole::new(number).map_err(E::custom)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Self::Value, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::custom(format!("{number} is out of range: {MIN} to {MAX}"))),
        }
    }

    // JSON has one kind of number, and the schema takes 1.0 and 1e2 for whole ones.
    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Self::Value, E> {
        if number.fract() != 0.0 {
            return Err(E::custom(format!("{number} is not a whole number from {MIN} to {MAX}")));
        }
        match format!("{number:.0}").parse() {
            Ok(number) => self.visit_u64(number),
            // Of whole numbers these are zero with a sign, what is negative, and what is above 2^64.
            Err(_) if number == 0.0 => self.visit_u64(0),
            Err(_) => Err(E::custom(format!("{number} is out of range: {MIN} to {MAX}"))),
        }
    }
}

impl<const MIN: u64, const MAX: u64, const DEFAULT: u64> JsonSchema for Whole<MIN, MAX, DEFAULT> {
    fn schema_name() -> Cow<'static, str> {
        format!("Whole_{MIN}_{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

/// A field that has one value.
trait OnlyValue {
    const NAME: &'static str;
    /// What is wrong with any other.
    const WHY: &'static str;

    fn value() -> Value;
}

/// The one value of the field `F`.
struct Fixed<F>(PhantomData<F>);

#[derive(Debug)]
struct SchemaField;
#[derive(Debug)]
struct TempSuffixField;
#[derive(Debug)]
struct AtomicReplaceField;
#[derive(Debug)]
struct FsyncBarriersField;

impl OnlyValue for SchemaField {
    const NAME: &'static str = "schema";
    const WHY: &'static str = "this is the schema that is known here";

    fn value() -> Value {
        SCHEMA.into()
    }
}

impl OnlyValue for TempSuffixField {
    const NAME: &'static str = "temp_suffix";
    const WHY: &'static str = "recovery knows staged objects by it";

    fn value() -> Value {
        TEMP_SUFFIX.into()
    }
}

impl OnlyValue for AtomicReplaceField {
    const NAME: &'static str = "atomic_replace";
    const WHY: &'static str = "there is no other way to replace an object";

    fn value() -> Value {
        true.into()
    }
}

impl OnlyValue for FsyncBarriersField {
    const NAME: &'static str = "fsync_barriers";
    const WHY: &'static str =
        "without barriers a power cut takes what was acknowledged, so they cannot be switched off";

    fn value() -> Value {
        true.into()
    }
}

impl<F> Clone for Fixed<F> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<F> Default for Fixed<F> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<F> PartialEq for Fixed<F> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<F> Eq for Fixed<F> {}

impl<F: OnlyValue> fmt::Debug for Fixed<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", F::value())
    }
}

impl<F: OnlyValue> Serialize for Fixed<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        F::value().serialize(serializer)
    }
}

impl<'de, F: OnlyValue> Deserialize<'de> for Fixed<F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if Value::deserialize(deserializer)? == F::value() {
            return Ok(Self::default());
        }
        Err(D::Error::custom(format!("{} must be {}: {}", F::NAME, F::value(), F::WHY)))
    }
}

impl<F: OnlyValue> JsonSchema for Fixed<F> {
    fn schema_name() -> Cow<'static, str> {
        F::NAME.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "const": F::value() })
    }
}

/// An object, and not the array of its values that the derived form would take as well.
fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_map(ObjectVisitor(PhantomData))
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields))
    }
}
