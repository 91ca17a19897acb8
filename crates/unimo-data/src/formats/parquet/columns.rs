//! Values in the rows of a column, for every stored type.

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, UInt32Type, UInt64Type};
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

/// A text or a whole number; `None` for other types.
pub(crate) fn plain(column: &ArrayRef, row: usize) -> Option<String> {
    if column.is_null(row) {
        return None;
    }
    Some(match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(row).to_owned(),
        DataType::LargeUtf8 => column.as_string::<i64>().value(row).to_owned(),
        DataType::Utf8View => column.as_string_view().value(row).to_owned(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::UInt32 => column.as_primitive::<UInt32Type>().value(row).to_string(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row).to_string(),
        _ => return None,
    })
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
