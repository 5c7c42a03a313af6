//! The functions and operators of PostgreSQL itself, by what a call of them may do.
//!
//! A name is harmless when every function of that name in `pg_catalog` computes only from its arguments, or tells what any session may
//! know of itself and of definitions: no files, no other sessions, no settings, no rows of tables.

use std::collections::BTreeSet;
use std::sync::LazyLock;

/// What a function outside of the harmless list is known to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Has an effect, and its result is no value of a table.
    Effect,
    /// Touches the server's files or programs.
    File,
    /// Executes a text, or reads tables that its arguments name.
    Opaque,
    /// `set_config`.
    SetConfig,
    /// `pg_notify`.
    Notify,
    /// Nothing is known of it.
    Nothing,
}

/// Whether calls of this name are harmless.
pub(super) fn is_harmless(name: &str) -> bool {
    HARMLESS.contains(name)
}

/// Whether the symbol is an operator of the system.
pub(super) fn is_operator(symbol: &str) -> bool {
    OPERATOR_SET.contains(symbol) || matches!(symbol, "NOT BETWEEN" | "BETWEEN SYMMETRIC" | "NOT BETWEEN SYMMETRIC")
}

/// What is known of a function that is not harmless.
pub(super) fn known(name: &str) -> Known {
    match name {
        "set_config" => Known::SetConfig,
        "pg_notify" => Known::Notify,
        "nextval"
        | "currval"
        | "lastval"
        | "setval"
        | "pg_advisory_lock"
        | "pg_advisory_lock_shared"
        | "pg_advisory_unlock"
        | "pg_advisory_unlock_all"
        | "pg_advisory_unlock_shared"
        | "pg_advisory_xact_lock"
        | "pg_advisory_xact_lock_shared"
        | "pg_try_advisory_lock"
        | "pg_try_advisory_lock_shared"
        | "pg_try_advisory_xact_lock"
        | "pg_try_advisory_xact_lock_shared"
        | "pg_cancel_backend"
        | "pg_terminate_backend"
        | "pg_reload_conf"
        | "pg_rotate_logfile"
        | "pg_switch_wal"
        | "pg_promote"
        | "pg_create_restore_point"
        | "pg_stat_reset"
        | "pg_stat_reset_shared"
        | "pg_stat_force_next_flush"
        | "pg_export_snapshot"
        | "pg_log_backend_memory_contexts" => Known::Effect,
        "query_to_xml"
        | "query_to_xmlschema"
        | "query_to_xml_and_xmlschema"
        | "cursor_to_xml"
        | "cursor_to_xmlschema"
        | "table_to_xml"
        | "table_to_xmlschema"
        | "table_to_xml_and_xmlschema"
        | "schema_to_xml"
        | "schema_to_xmlschema"
        | "schema_to_xml_and_xmlschema"
        | "database_to_xml"
        | "database_to_xmlschema"
        | "database_to_xml_and_xmlschema"
        | "ts_stat"
        | "ts_rewrite"
        | "dblink"
        | "dblink_exec"
        | "dblink_open"
        | "dblink_send_query"
        | "dblink_fetch"
        | "crosstab"
        | "crosstab2"
        | "crosstab3"
        | "crosstab4"
        | "connectby"
        | "xpath_table" => Known::Opaque,
        "lo_import" | "lo_export" | "pg_current_logfile" | "pg_file_read" | "pg_file_write" | "pg_file_rename"
        | "pg_file_unlink" | "pg_file_sync" | "pg_logdir_ls" => Known::File,
        _ if name.starts_with("pg_read_") || name.starts_with("pg_ls_") || name.starts_with("pg_stat_file") => {
            Known::File
        }
        _ => Known::Nothing,
    }
}

static HARMLESS: LazyLock<BTreeSet<&'static str>> = LazyLock::new(|| {
    [AGGREGATES, TEXT, NUMBERS, TIMES, JSON, COLLECTIONS, SEARCH, SYSTEM, DEFINITIONS, CASTS]
        .iter()
        .flat_map(|group| group.split_whitespace())
        .collect()
});

static OPERATOR_SET: LazyLock<BTreeSet<&'static str>> = LazyLock::new(|| OPERATORS.split_whitespace().collect());

/// As `SELECT DISTINCT oprname FROM pg_operator` lists them, and the symbols that stand for LIKE, IN and BETWEEN.
const OPERATORS: &str = "
    ! !! !~ !~* !~~ !~~* # ## #- #> #>> #>= #< #<= #= #<> % & && &< &<| &> * *< *<= *<> *= *> *>= + - -> ->> -|- / < <-> << <<= <<|
    <= <> = > >= >> >>= ? ?# ?& ?- ?-| ?| ?|| @ @- @> @>> @? @@ @@@ ^ ^@ | |&> |/ |>> || ||/ ~ ~* ~<=~ ~<~ ~= ~>=~ ~>~ ~~ ~~* != <% %>
    <<% %>> <<-> <->> <<<-> <->>> BETWEEN";

const AGGREGATES: &str = "
    any_value array_agg avg bit_and bit_or bit_xor bool_and bool_or count every json_agg json_agg_strict json_arrayagg json_object_agg
    json_object_agg_strict json_object_agg_unique json_object_agg_unique_strict jsonb_agg jsonb_agg_strict jsonb_object_agg
    jsonb_object_agg_strict jsonb_object_agg_unique jsonb_object_agg_unique_strict max min range_agg range_intersect_agg string_agg sum
    xmlagg corr covar_pop covar_samp regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy stddev
    stddev_pop stddev_samp variance var_pop var_samp mode percentile_cont percentile_disc rank dense_rank percent_rank cume_dist grouping
    row_number ntile lag lead first_value last_value nth_value";

const TEXT: &str = "
    ascii bit_length btrim char_length character_length chr concat concat_ws convert convert_from convert_to decode encode format initcap
    is_normalized left length like like_escape lower lpad ltrim md5 normalize notlike octet_length overlay parse_ident position
    quote_ident quote_literal quote_nullable regexp_count regexp_instr regexp_like regexp_match regexp_matches regexp_replace
    regexp_split_to_array regexp_split_to_table regexp_substr repeat replace reverse right rpad rtrim similar_escape similar_to_escape
    split_part starts_with string_to_array string_to_table strpos substr substring to_ascii to_bin to_hex to_oct translate textcat
    texticlike texticnlike textlike textnlike texteq textlen trim unicode_assigned unistr upper casefold sha224 sha256 sha384 sha512
    get_bit get_byte set_bit set_byte bit_count crc32 crc32c unicode_version icu_unicode_version pg_collation_for xmlcomment xmlconcat
    xmlexists xml_is_well_formed xml_is_well_formed_content xml_is_well_formed_document xmltext xpath xpath_exists xmlvalidate";

const NUMBERS: &str = "
    abs cbrt ceil ceiling degrees div erf erfc exp factorial floor gamma gcd lcm lgamma ln log log10 min_scale mod pi pow power radians
    random random_normal round scale setseed sign sqrt trim_scale trunc width_bucket acos acosd asin asind atan atand atan2 atan2d cos
    cosd cot cotd sin sind tan tand sinh cosh tanh asinh acosh atanh to_number int4abs numeric_abs area center diagonal diameter height
    isclosed isopen npoints pclose popen radius slope width box circle line lseg path point polygon bound_box isparallel isperp
    isvertical ishorizontal";

const TIMES: &str = "
    age clock_timestamp current_date current_time current_timestamp date_add date_bin date_part date_subtract date_trunc extract isfinite
    justify_days justify_hours justify_interval localtime localtimestamp make_date make_interval make_time make_timestamp
    make_timestamptz now overlaps pg_sleep pg_sleep_for pg_sleep_until statement_timestamp timeofday timezone to_char to_date
    to_timestamp transaction_timestamp";

const JSON: &str = "
    array_to_json json_array_element json_array_elements json_array_elements_text json_array_length json_build_array json_build_object
    json_each json_each_text json_exists json_extract_path json_extract_path_text json_object json_object_field json_object_field_text
    json_object_keys json_populate_record json_populate_recordset json_query json_scalar json_serialize json_strip_nulls
    json_to_record json_to_recordset json_typeof json_value jsonb_array_element jsonb_array_elements jsonb_array_elements_text
    jsonb_array_length jsonb_build_array jsonb_build_object jsonb_concat jsonb_contained jsonb_contains jsonb_delete
    jsonb_delete_path jsonb_each jsonb_each_text jsonb_exists jsonb_exists_all jsonb_exists_any jsonb_extract_path
    jsonb_extract_path_text jsonb_insert jsonb_object jsonb_object_field jsonb_object_field_text jsonb_object_keys
    jsonb_path_exists jsonb_path_exists_tz jsonb_path_match jsonb_path_match_tz jsonb_path_query jsonb_path_query_array
    jsonb_path_query_array_tz jsonb_path_query_first jsonb_path_query_first_tz jsonb_path_query_tz jsonb_populate_record
    jsonb_populate_recordset jsonb_populate_record_valid jsonb_pretty jsonb_set jsonb_set_lax jsonb_strip_nulls
    jsonb_to_record jsonb_to_recordset jsonb_typeof row_to_json to_json to_jsonb";

const COLLECTIONS: &str = "
    array_append array_cat array_dims array_fill array_length array_lower array_ndims array_position array_positions array_prepend
    array_remove array_replace array_reverse array_sample array_shuffle array_sort array_to_string array_upper cardinality
    generate_series generate_subscripts trim_array unnest isempty lower_inc lower_inf multirange range_merge upper_inc upper_inf int4range
    int8range numrange tsrange tstzrange daterange int4multirange int8multirange nummultirange tsmultirange tstzmultirange
    datemultirange num_nonnulls num_nulls enum_first enum_last enum_range gen_random_uuid uuidv4 uuidv7 uuid_extract_timestamp
    uuid_extract_version abbrev broadcast cidr family host hostmask inet_merge inet_same_family masklen netmask network
    set_masklen macaddr8_set7bit hashtext hashint4 hashint8 hash_array";

const SEARCH: &str = "
    array_to_tsvector get_current_ts_config numnode phraseto_tsquery plainto_tsquery querytree setweight strip to_tsquery to_tsvector
    json_to_tsvector jsonb_to_tsvector ts_debug ts_delete ts_filter ts_headline ts_lexize ts_parse ts_rank ts_rank_cd ts_token_type
    tsquery_phrase tsvector_to_array websearch_to_tsquery tsquery_and tsquery_or tsquery_not";

const SYSTEM: &str = "
    getdatabaseencoding current_catalog current_database current_query current_role current_schema current_schemas current_setting current_user
    inet_client_addr inet_client_port inet_server_addr inet_server_port pg_backend_pid pg_blocking_pids pg_client_encoding
    pg_conf_load_time pg_current_snapshot pg_current_wal_lsn pg_current_xact_id pg_current_xact_id_if_assigned pg_is_in_recovery
    pg_is_wal_replay_paused pg_last_wal_receive_lsn pg_last_wal_replay_lsn pg_last_xact_replay_timestamp pg_my_temp_schema
    pg_is_other_temp_schema pg_postmaster_start_time pg_size_bytes pg_size_pretty pg_snapshot_xip pg_snapshot_xmax pg_snapshot_xmin
    pg_visible_in_snapshot pg_wal_lsn_diff pg_xact_status session_user system_user txid_current txid_current_if_assigned
    txid_current_snapshot txid_snapshot_xip txid_snapshot_xmax txid_snapshot_xmin txid_status txid_visible_in_snapshot user version
    pg_jit_available pg_trigger_depth pg_column_compression pg_column_size pg_typeof pg_encoding_max_length";

const DEFINITIONS: &str = "
    acldefault aclexplode makeaclitem col_description format_type obj_description shobj_description has_any_column_privilege
    has_column_privilege has_database_privilege has_foreign_data_wrapper_privilege has_function_privilege has_language_privilege
    has_parameter_privilege has_schema_privilege has_sequence_privilege has_server_privilege has_table_privilege
    has_tablespace_privilege has_type_privilege has_largeobject_privilege pg_has_role row_security_active pg_available_extensions
    pg_char_to_encoding pg_encoding_to_char pg_collation_actual_version pg_collation_is_visible pg_conversion_is_visible
    pg_function_is_visible pg_opclass_is_visible pg_operator_is_visible pg_opfamily_is_visible pg_statistics_obj_is_visible
    pg_table_is_visible pg_ts_config_is_visible pg_ts_dict_is_visible pg_ts_parser_is_visible pg_ts_template_is_visible
    pg_type_is_visible pg_database_collation_actual_version pg_database_size pg_describe_object pg_filenode_relation
    pg_get_catalog_foreign_keys pg_get_constraintdef pg_get_expr pg_get_function_arg_default pg_get_function_arguments
    pg_get_function_identity_arguments pg_get_function_result pg_get_function_sqlbody pg_get_functiondef pg_get_indexdef
    pg_get_keywords pg_get_object_address pg_get_partition_constraintdef pg_get_partkeydef pg_get_publication_tables
    pg_get_replica_identity_index pg_get_ruledef pg_get_serial_sequence pg_get_statisticsobjdef
    pg_get_statisticsobjdef_columns pg_get_statisticsobjdef_expressions pg_get_triggerdef pg_get_userbyid pg_get_viewdef
    pg_identify_object pg_identify_object_as_address pg_index_column_has_property pg_index_has_property
    pg_indexam_has_property pg_indexes_size pg_options_to_table pg_partition_ancestors pg_partition_root pg_partition_tree
    pg_relation_filenode pg_relation_filepath pg_relation_is_publishable pg_relation_is_updatable pg_column_is_updatable
    pg_relation_size pg_sequence_parameters pg_settings_get_flags pg_table_size pg_tablespace_databases
    pg_tablespace_location pg_tablespace_size pg_total_relation_size pg_basetype to_regclass to_regcollation to_regnamespace
    to_regoper to_regoperator to_regproc to_regprocedure to_regrole to_regtype to_regtypemod pg_get_acl _pg_expandarray
    pg_timezone_abbrevs pg_timezone_names pg_show_all_settings pg_event_trigger_table_rewrite_oid";

/// Types under whose names their casts are called.
const CASTS: &str = "
    bool bpchar bytea char date float4 float8 int2 int4 int8 inet interval json jsonb macaddr macaddr8 money name numeric oid regclass
    regnamespace regproc regrole regtype text time timestamp timestamptz timetz uuid varbit varchar xml bit int4_bool";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_both_harmless_and_known_otherwise() {
        for name in HARMLESS.iter() {
            assert!(matches!(known(name), Known::Nothing | Known::Effect), "{name}");
        }
        for dangerous in
            ["lo_get", "pg_read_file", "set_config", "query_to_xml", "pg_stat_get_activity", "dblink", "pg_ls_dir"]
        {
            assert!(!is_harmless(dangerous), "{dangerous}");
        }
    }
}
