//! Forms of the language that look like functions but have rules of their own; `expression/calls.rs` plans them.

use super::reference::FunctionDoc;

/// A form.
pub(crate) struct Form {
    /// In lower case, as a query calls it; empty for what is no call.
    pub(crate) name: &'static str,
    pub(crate) doc: FunctionDoc,
}

const fn form(name: &'static str, doc: FunctionDoc) -> Form {
    Form { name, doc }
}

const NONE: FunctionDoc = FunctionDoc::NONE;
const NULL_IS_FALSE: &str = "a comparison with NULL is false, also under NOT";

/// All of them.
pub(crate) static FORMS: &[Form] = &[
    form(
        "",
        FunctionDoc {
            signature: "CAST(x AS type)",
            meaning: "x as a bigint, float, nvarchar(max), datetime, bit, record or array; a value that is none stops the job",
            examples: &[
                ("CAST('12' AS bigint)", "12"),
                ("CAST(2.9 AS bigint)", "2"),
                ("CAST(2.5 AS bit)", "true"),
                ("CAST(CAST('2024-01-01' AS datetime) AS nvarchar(max))", "\"2024-01-01T00:00:00.0000000Z\""),
            ],
            page: "cast-azure-stream-analytics",
            ..NONE
        },
    ),
    form(
        "",
        FunctionDoc {
            signature: "TRY_CAST(x AS type)",
            meaning: "as CAST, but NULL for a value that is none",
            examples: &[("TRY_CAST('1.5' AS bigint)", "null"), ("TRY_CAST(r AS bigint)", "null")],
            page: "try-cast-azure-stream-analytics",
            ..NONE
        },
    ),
    form(
        "",
        FunctionDoc {
            signature: "CASE [x] WHEN c THEN a ... [ELSE b] END",
            meaning: "the first value whose condition holds, or whose `c` equals x; without ELSE NULL",
            nulls: NULL_IS_FALSE,
            examples: &[
                ("CASE n WHEN 1 THEN 'a' ELSE 'b' END", "\"b\""),
                ("CASE WHEN n > 1 THEN 1 ELSE 'none' END", "1"),
            ],
            page: "case-azure-stream-analytics",
        },
    ),
    form(
        "iif",
        FunctionDoc {
            signature: "IIF(condition, a, b)",
            meaning: "a when the condition holds, else b",
            nulls: NULL_IS_FALSE,
            examples: &[("IIF(n > 1, 'many', 'one')", "\"many\"")],
            ..NONE
        },
    ),
    form(
        "coalesce",
        FunctionDoc {
            signature: "COALESCE(a, b, ...)",
            meaning: "the first value that is not NULL",
            nulls: "NULL when all are",
            examples: &[("COALESCE(NULL, NULL, 2, NULL)", "2")],
            page: "coalesce-azure-stream-analytics",
        },
    ),
    form(
        "isnull",
        FunctionDoc {
            signature: "ISNULL(a, b)",
            meaning: "a, or b where a is NULL",
            nulls: "NULL when both are",
            examples: &[("ISNULL(NULL, 2)", "2")],
            ..NONE
        },
    ),
    form(
        "nullif",
        FunctionDoc {
            signature: "NULLIF(a, b)",
            meaning: "NULL when a equals b, else a",
            nulls: "a when b is NULL",
            examples: &[("NULLIF(4, 4)", "null"), ("NULLIF(5, 7)", "5")],
            page: "nullif-azure-stream-analytics",
        },
    ),
    form(
        "",
        FunctionDoc {
            signature: "x [NOT] LIKE pattern [ESCAPE c]",
            meaning: "whether all of the text matches: `%` any text, `_` any character, `[a-f]` and `[^a-f]` one of a set or not",
            nulls: NULL_IS_FALSE,
            examples: &[("IIF('ABC-129' LIKE 'A%9', 1, 0)", "1"), ("IIF('10%' LIKE '10!%' ESCAPE '!', 1, 0)", "1")],
            page: "where-azure-stream-analytics",
        },
    ),
    form(
        "",
        FunctionDoc {
            signature: "x [NOT] IN (a, b, ...)",
            meaning: "whether x equals one of the values",
            nulls: NULL_IS_FALSE,
            examples: &[("IIF(n IN (1, 7), 1, 0)", "1")],
            page: "where-azure-stream-analytics",
        },
    ),
    form(
        "",
        FunctionDoc {
            signature: "x [NOT] BETWEEN a AND b",
            meaning: "whether x is neither below a nor above b",
            nulls: NULL_IS_FALSE,
            examples: &[("IIF(n BETWEEN 7 AND 9, 1, 0)", "1")],
            page: "where-azure-stream-analytics",
        },
    ),
    form(
        "getmetadatapropertyvalue",
        FunctionDoc {
            signature: "GetMetadataPropertyValue(input, path)",
            meaning: "a property of the record: `[Kafka].[Key]`, `Headers`, `Topic`, `Partition`, `Offset`, `Timestamp`; \
                      `[EventHub].[EventEnqueuedUtcTime]`, `PartitionId`, `Offset`, `SequenceNumber`, `PartitionKey`; \
                      `[User].[header]`; `Kafka`, `EventHub` or `User` for all of them as a record; `EventId`, an identifier \
                      that is the same on every reading",
            nulls: "NULL when the record has no such header or key",
            examples: &[("GetMetadataPropertyValue(t, '[Kafka].[Offset]')", "0")],
            page: "getmetadatapropertyvalue",
        },
    ),
    form(
        "newguid",
        FunctionDoc {
            signature: "NEWGUID()",
            meaning: "an identifier (UUID) of the record and of this call in its SELECT; computed from topic, partition \
                      and offset, so that reading the record again gives the same one",
            nulls: "never NULL",
            examples: &[("LEN(NEWGUID())", "36")],
            ..NONE
        },
    ),
];
