/* status.c: texts of the status codes and the formatting of error details. Allocates nothing. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h> /* vsnprintf into the caller's buffer; nothing is printed */

static const char *const status_texts[PFO_STATUS_COUNT] = {
#define PFO_STATUS_TEXT(name, text) text,
    PFO_STATUS_LIST(PFO_STATUS_TEXT)
#undef PFO_STATUS_TEXT
};

const char *
pfo_status_text(pfo_status status)
{
    const int code = (int)status;
    return code >= 0 && code < PFO_STATUS_COUNT ? status_texts[code] : "unknown status";
}

pfo_status
pfo_fail(pfo_error *err, pfo_status code, const char *format, ...)
{
    if (err != NULL && err->code == PFO_OK) {
        va_list arguments;
        va_start(arguments, format);
        (void)vsnprintf(err->text, sizeof err->text, format, arguments);
        va_end(arguments);
        err->code = code;
    }
    return code;
}
