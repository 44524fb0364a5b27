//! Properties of many schemas that utoipa cannot derive.

use std::collections::BTreeSet;

use utoipa::{
    Number,
    openapi::{
        Content, Object, OpenApi, RefOr, Schema,
        path::Operation,
        schema::{AdditionalProperties, ArrayItems, KnownFormat, SchemaFormat, SchemaType, Type},
    },
};

use super::{methods, v2};

/// Beginning of references to schemas.
const SCHEMAS: &str = "#/components/schemas/";

/// Declares that request bodies have no other fields than those of their schema: the server refuses unknown fields and parts of forms. The
/// Open Inference Protocol ignores them.
pub(super) fn refuse_unknown_fields(document: &mut OpenApi) {
    let mut bodies = BTreeSet::new();
    for (path, item) in &mut document.paths.paths {
        if !v2::errors::is_below(path) {
            bodies.extend(methods(item).flat_map(|(_, operation)| body_schemas(operation)));
        }
    }
    let Some(components) = &mut document.components else { return };
    for name in bodies {
        if let Some(RefOr::T(Schema::Object(object))) = components.schemas.get_mut(&name)
            && object.schema_type == SchemaType::Type(Type::Object)
            && object.additional_properties.is_none()
        {
            object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
        }
    }
}

/// Names of the schemas of an operation's request body.
fn body_schemas(operation: &Operation) -> Vec<String> {
    let bodies = operation.request_body.iter().filter_map(|body| match body {
        RefOr::T(body) => Some(body),
        RefOr::Ref(_) => None,
    });
    let contents = bodies.flat_map(|body| body.content.values());
    let schemas = contents.filter_map(|content| match content {
        RefOr::T(content) => content.schema.as_ref(),
        RefOr::Ref(_) => None,
    });
    schemas
        .filter_map(|schema| match schema {
            RefOr::Ref(reference) => reference.ref_location.strip_prefix(SCHEMAS).map(str::to_owned),
            RefOr::T(_) => None,
        })
        .collect()
}

/// Gives unsigned integers their maximum, and the name of their format in the registry of OpenAPI.
pub(super) fn bound_unsigned_integers(document: &mut OpenApi) {
    if let Some(components) = &mut document.components {
        components.schemas.values_mut().for_each(bound);
    }
    for (_, operation) in document.paths.paths.values_mut().flat_map(methods) {
        for parameter in operation.parameters.iter_mut().flatten() {
            if let RefOr::T(parameter) = parameter {
                parameter.schema.iter_mut().for_each(bound);
            }
        }
        if let Some(RefOr::T(body)) = &mut operation.request_body {
            body.content.values_mut().for_each(bound_content);
        }
        for response in operation.responses.responses.values_mut() {
            if let RefOr::T(response) = response {
                response.content.values_mut().for_each(bound_content);
            }
        }
    }
}

fn bound_content(content: &mut RefOr<Content>) {
    if let RefOr::T(content) = content {
        content.schema.iter_mut().for_each(bound);
    }
}

fn bound(schema: &mut RefOr<Schema>) {
    if let RefOr::T(schema) = schema {
        bound_schema(schema);
    }
}

fn bound_schema(schema: &mut Schema) {
    match schema {
        Schema::Object(object) => {
            bound_integer(object);
            object.properties.values_mut().for_each(bound);
            if let Some(AdditionalProperties::RefOr(values)) = object.additional_properties.as_deref_mut() {
                bound(values);
            }
        }
        Schema::Array(array) => {
            if let ArrayItems::RefOrSchema(items) = &mut array.items {
                bound(items);
            }
            array.prefix_items.iter_mut().for_each(bound_schema);
        }
        Schema::OneOf(one_of) => one_of.items.iter_mut().for_each(bound),
        Schema::AllOf(all_of) => all_of.items.iter_mut().for_each(bound),
        Schema::AnyOf(any_of) => any_of.items.iter_mut().for_each(bound),
        _ => {}
    }
}

fn bound_integer(object: &mut Object) {
    let Some(SchemaFormat::KnownFormat(format)) = &object.format else { return };
    let (format, maximum) = match format {
        KnownFormat::UInt8 => ("uint8", Some(u8::MAX.into())),
        KnownFormat::UInt16 => ("uint16", Some(u16::MAX.into())),
        KnownFormat::UInt32 => ("uint32", usize::try_from(u32::MAX).ok()),
        // JSON numbers above 2^53 lose digits in many clients: the maximum of `u64` would say nothing.
        KnownFormat::UInt64 => ("uint64", None),
        _ => return,
    };
    object.format = Some(SchemaFormat::Custom(format.into()));
    object.maximum = object.maximum.take().or(maximum.map(Number::UInt));
}
