//! JSON objects whose members have an order, and that of SPDX documents.
//!
//! BuildKit reads a bill of materials into a model of SPDX 2.3 and writes that. Here nothing is read
//! that need not be: members are put into the order of that model, and those that it does not have
//! come after them.

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// The members of an object in their order, and what is in those that hold objects or lists of them.
#[derive(Debug)]
pub(super) struct Shape(&'static [(&'static str, Option<&'static Self>)]);

/// A document.
pub(super) const DOCUMENT: Shape = Shape(&[
    ("spdxVersion", None),
    ("dataLicense", None),
    ("SPDXID", None),
    ("name", None),
    ("documentNamespace", None),
    ("externalDocumentRefs", Some(&EXTERNAL_DOCUMENT)),
    ("comment", None),
    ("creationInfo", Some(&CREATION)),
    ("packages", Some(&PACKAGE)),
    ("files", Some(&FILE)),
    ("hasExtractedLicensingInfos", Some(&LICENSE)),
    ("relationships", Some(&RELATIONSHIP)),
    ("annotations", Some(&ANNOTATION)),
    ("snippets", Some(&SNIPPET)),
]);

const EXTERNAL_DOCUMENT: Shape = Shape(&[
    ("externalDocumentId", None),
    ("spdxDocument", None),
    ("checksum", Some(&CHECKSUM)),
]);

const CREATION: Shape = Shape(&[
    ("licenseListVersion", None),
    ("creators", None),
    ("created", None),
    ("comment", None),
]);

const PACKAGE: Shape = Shape(&[
    ("name", None),
    ("SPDXID", None),
    ("versionInfo", None),
    ("packageFileName", None),
    ("supplier", None),
    ("originator", None),
    ("downloadLocation", None),
    ("filesAnalyzed", None),
    ("packageVerificationCode", Some(&VERIFICATION_CODE)),
    ("checksums", Some(&CHECKSUM)),
    ("homepage", None),
    ("sourceInfo", None),
    ("licenseConcluded", None),
    ("licenseInfoFromFiles", None),
    ("licenseDeclared", None),
    ("licenseComments", None),
    ("copyrightText", None),
    ("summary", None),
    ("description", None),
    ("comment", None),
    ("externalRefs", Some(&EXTERNAL_REFERENCE)),
    ("attributionTexts", None),
    ("primaryPackagePurpose", None),
    ("releaseDate", None),
    ("builtDate", None),
    ("validUntilDate", None),
    ("files", Some(&FILE)),
    ("annotations", Some(&ANNOTATION)),
]);

const VERIFICATION_CODE: Shape = Shape(&[
    ("packageVerificationCodeValue", None),
    ("packageVerificationCodeExcludedFiles", None),
]);

const CHECKSUM: Shape = Shape(&[("algorithm", None), ("checksumValue", None)]);

const EXTERNAL_REFERENCE: Shape = Shape(&[
    ("referenceCategory", None),
    ("referenceType", None),
    ("referenceLocator", None),
    ("comment", None),
]);

const FILE: Shape = Shape(&[
    ("fileName", None),
    ("SPDXID", None),
    ("fileTypes", None),
    ("checksums", Some(&CHECKSUM)),
    ("licenseConcluded", None),
    ("licenseInfoInFiles", None),
    ("licenseComments", None),
    ("copyrightText", None),
    ("artifactOfs", Some(&ARTIFACT)),
    ("comment", None),
    ("noticeText", None),
    ("fileContributors", None),
    ("attributionTexts", None),
    ("fileDependencies", None),
    ("annotations", Some(&ANNOTATION)),
]);

const ARTIFACT: Shape = Shape(&[("name", None), ("homePage", None), ("URI", None)]);

const LICENSE: Shape = Shape(&[
    ("licenseId", None),
    ("extractedText", None),
    ("name", None),
    ("seeAlsos", None),
    ("comment", None),
]);

const RELATIONSHIP: Shape = Shape(&[
    ("spdxElementId", None),
    ("relatedSpdxElement", None),
    ("relationshipType", None),
    ("comment", None),
]);

const ANNOTATION: Shape = Shape(&[
    ("annotator", None),
    ("annotationDate", None),
    ("annotationType", None),
    ("comment", None),
]);

const SNIPPET: Shape = Shape(&[
    ("SPDXID", None),
    ("snippetFromFile", None),
    ("ranges", Some(&RANGE)),
    ("licenseConcluded", None),
    ("licenseInfoInSnippets", None),
    ("licenseComments", None),
    ("copyrightText", None),
    ("comment", None),
    ("name", None),
]);

const RANGE: Shape = Shape(&[
    ("startPointer", Some(&POINTER)),
    ("endPointer", Some(&POINTER)),
]);

const POINTER: Shape = Shape(&[("offset", None), ("lineNumber", None), ("reference", None)]);

impl Shape {
    /// Where a member stands, and what is in it.
    fn place(&self, name: &str) -> (usize, Option<&'static Self>) {
        let at = self.0.iter().position(|(known, _)| *known == name);
        at.map_or((self.0.len(), None), |at| (at, self.0[at].1))
    }

    /// An object, or a list of objects, with its members in order; `None` for anything else.
    fn arranged(&self, text: &RawValue) -> Option<Box<RawValue>> {
        if let Ok(mut object) = serde_json::from_str::<Object<'_>>(text.get()) {
            object.arrange(self);
            return Some(raw(&object));
        }
        let list: Vec<&RawValue> = serde_json::from_str(text.get()).ok()?;
        let items = list.into_iter().map(|item| match self.arranged(item) {
            Some(arranged) => Member::New(arranged),
            None => Member::Read(item),
        });
        Some(raw(&items.collect::<Vec<_>>()))
    }
}

/// An object whose members stay in their order.
#[derive(Debug)]
pub(super) struct Object<'a>(Vec<(String, Member<'a>)>);

#[derive(Debug)]
enum Member<'a> {
    Read(&'a RawValue),
    New(Box<RawValue>),
}

impl Member<'_> {
    fn text(&self) -> &RawValue {
        match self {
            Self::Read(text) => text,
            Self::New(text) => text,
        }
    }
}

impl<'a> Object<'a> {
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// A member as it was read.
    pub(super) fn member(&self, name: &str) -> Option<&'a RawValue> {
        let (_, member) = self.0.iter().find(|(known, _)| known == name)?;
        match member {
            Member::Read(text) => Some(text),
            Member::New(_) => None,
        }
    }

    pub(super) fn set(&mut self, name: &str, value: Box<RawValue>) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, member)) => *member = Member::New(value),
            None => self.0.push((name.to_owned(), Member::New(value))),
        }
    }

    /// Puts its members, and theirs, into order.
    pub(super) fn arrange(&mut self, shape: &Shape) {
        for (name, member) in &mut self.0 {
            if let (_, Some(inner)) = shape.place(name)
                && let Some(arranged) = inner.arranged(member.text())
            {
                *member = Member::New(arranged);
            }
        }
        self.0.sort_by_key(|(name, _)| shape.place(name).0);
    }
}

/// The text of a value that came from JSON.
pub(super) fn raw(value: &impl Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("BUG: what was read from JSON is JSON")
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(String, Member<'de>)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((name, text)) = map.next_entry::<String, &'de RawValue>()? {
                    members.push((name, Member::Read(text)));
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Members).map(Self)
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, member) in &self.0 {
            map.serialize_entry(name, member)?;
        }
        map.end()
    }
}

impl Serialize for Member<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text().serialize(serializer)
    }
}
