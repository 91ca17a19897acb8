//! Values in the rows of a column, for every stored type.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;

/// The image in a row of a column: binary, or a struct with the field `bytes`.
pub(crate) fn picture(column: &ArrayRef, row: usize) -> Result<Vec<u8>, String> {
    let inner = match column.as_struct_opt() {
        Some(structs) => structs
            .column_by_name("bytes")
            .ok_or("a struct without `bytes`")?,
        None => column,
    };
    if row >= inner.len() {
        return Err("the row is not there".to_owned());
    }
    if column.is_null(row) || inner.is_null(row) {
        return Err("no image in it; images elsewhere are not fetched".to_owned());
    }
    let bytes = match inner.data_type() {
        DataType::Binary => inner.as_binary::<i32>().value(row),
        DataType::LargeBinary => inner.as_binary::<i64>().value(row),
        DataType::BinaryView => inner.as_binary_view().value(row),
        other => return Err(format!("{other} is neither binary nor a struct of `bytes`")),
    };
    Ok(bytes.to_vec())
}

/// Whether [`plain`] reads values of this type.
pub(crate) fn is_plain(kind: &DataType) -> bool {
    use DataType::{Float32, Float64, LargeUtf8, Utf8, Utf8View};
    kind.is_integer() || matches!(kind, Float32 | Float64 | LargeUtf8 | Utf8 | Utf8View)
}

/// A text or a whole number as text; `None` for null and other numbers. pandas stores whole numbers as floats where some are absent, so 42.0
/// is 42.
pub(crate) fn plain(column: &ArrayRef, row: usize) -> Option<String> {
    if column.is_null(row) {
        return None;
    }
    let whole = |number: f64| (number.fract() == 0.0).then(|| number.to_string());
    match column.data_type() {
        DataType::Utf8 => Some(column.as_string::<i32>().value(row).to_owned()),
        DataType::LargeUtf8 => Some(column.as_string::<i64>().value(row).to_owned()),
        DataType::Utf8View => Some(column.as_string_view().value(row).to_owned()),
        DataType::Int8 => Some(column.as_primitive::<Int8Type>().value(row).to_string()),
        DataType::Int16 => Some(column.as_primitive::<Int16Type>().value(row).to_string()),
        DataType::Int32 => Some(column.as_primitive::<Int32Type>().value(row).to_string()),
        DataType::Int64 => Some(column.as_primitive::<Int64Type>().value(row).to_string()),
        DataType::UInt8 => Some(column.as_primitive::<UInt8Type>().value(row).to_string()),
        DataType::UInt16 => Some(column.as_primitive::<UInt16Type>().value(row).to_string()),
        DataType::UInt32 => Some(column.as_primitive::<UInt32Type>().value(row).to_string()),
        DataType::UInt64 => Some(column.as_primitive::<UInt64Type>().value(row).to_string()),
        DataType::Float32 => whole(column.as_primitive::<Float32Type>().value(row).into()),
        DataType::Float64 => whole(column.as_primitive::<Float64Type>().value(row)),
        _ => None,
    }
}

pub(crate) fn each_text(
    column: &ArrayRef,
    row: usize,
    give: &mut dyn FnMut(&str),
) -> Result<(), DataType> {
    if column.is_null(row) {
        return Ok(());
    }
    match column.data_type() {
        DataType::Utf8 => give(column.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => give(column.as_string::<i64>().value(row)),
        DataType::Utf8View => give(column.as_string_view().value(row)),
        DataType::List(_) => {
            let texts = column.as_list::<i32>().value(row);
            // A list of lists is not a list of captions.
            if matches!(texts.data_type(), DataType::List(_)) {
                return Err(column.data_type().clone());
            }
            for at in 0..texts.len() {
                each_text(&texts, at, give)?;
            }
        }
        other => return Err(other.clone()),
    }
    Ok(())
}
