/* Stands in for libhidapi-hidraw.so.0 where no HID device is attached.
 *
 * Devices live in the folder this library was loaded from (a copy of it lies there); a process
 * that loads several copies sees the devices of all those folders. Device
 * "hidrawN" is a text file, "vendor product release usage_page usage interface\nmanufacturer\n
 * product\nserial\n" (ids in hexadecimal), and a listening socket "hidrawN.sock" of type
 * SOCK_SEQPACKET: one packet is one report, end of file is an unplugged device.
 *
 * As with Linux hidraw and hidapi's linux/hid.c: each open handle gets every report; 63 unread
 * reports are kept and further ones are dropped; after an unplug a read with a timeout fails at
 * once, one without hands over what was kept first; hid_error(NULL) names why opening failed.
 * A device file that nobody may read cannot be opened, not even by root.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <wchar.h>

#define API __attribute__((visibility("default")))

enum {
    SLOTS = 64,        /* HIDRAW_BUFFER_SIZE of drivers/hid/hidraw.c; one stays empty */
    MAX_REPORT = 64,   /* USB interrupt transfers of full-speed devices */
    TEXT = 128,
    COPIES = 64,
    BUS_USB = 1,
    READABLE = S_IRUSR | S_IRGRP | S_IROTH,
};

struct hid_device_info {
    char *path;
    unsigned short vendor_id, product_id;
    wchar_t *serial_number;
    unsigned short release_number;
    wchar_t *manufacturer_string, *product_string;
    unsigned short usage_page, usage;
    int interface_number;
    struct hid_device_info *next;
    int bus_type;
};

struct report {
    int size;
    unsigned char bytes[MAX_REPORT];
};

typedef struct {
    int socket, nonblocking, unplugged;
    unsigned head, tail;
    struct report kept[SLOTS];
    struct hid_device_info *info;
} hid_device;

static wchar_t last_error[TEXT] = L"Success";

static void fail_with(int number) { swprintf(last_error, TEXT, L"%s", strerror(number)); }

static wchar_t *wide(const char *text) {
    size_t length = strlen(text);
    wchar_t *copy = calloc(length + 1, sizeof *copy);
    for (size_t i = 0; i < length; i++)
        copy[i] = (unsigned char)text[i];
    return copy;
}

/* Exported, so that all copies in a process have the first one's: it is the one that is called. */
API char hid_stub_folders[COPIES][PATH_MAX];
API unsigned hid_stub_copies;

__attribute__((constructor)) static void remember_folder(void) {
    Dl_info self;
    char *into = hid_stub_folders[hid_stub_copies++ % COPIES];
    dladdr(&last_error, &self);
    snprintf(into, PATH_MAX, "%s", self.dli_fname);
    char *slash = strrchr(into, '/');
    if (slash)
        *slash = 0;
}

API int hid_init(void) { return 0; }
API int hid_exit(void) { return 0; }

/* Listing. */

static int is_device(const struct dirent *entry) {
    return !strncmp(entry->d_name, "hidraw", 6) && !strchr(entry->d_name, '.');
}

static struct hid_device_info *describe(const char *path) {
    char line[4][TEXT] = {{0}};
    unsigned vendor = 0, product = 0, release = 0, page = 0, usage = 0;
    int interface = -1;
    FILE *file = fopen(path, "r");
    if (!file)
        return NULL;
    for (int i = 0; i < 4 && fgets(line[i], TEXT, file); i++)
        line[i][strcspn(line[i], "\n")] = 0;
    fclose(file);
    sscanf(line[0], "%x %x %x %x %x %d", &vendor, &product, &release, &page, &usage, &interface);
    struct hid_device_info *info = calloc(1, sizeof *info);
    info->path = strdup(path);
    info->vendor_id = (unsigned short)vendor;
    info->product_id = (unsigned short)product;
    info->release_number = (unsigned short)release;
    info->usage_page = (unsigned short)page;
    info->usage = (unsigned short)usage;
    info->interface_number = interface;
    info->manufacturer_string = wide(line[1]);
    info->product_string = wide(line[2]);
    info->serial_number = wide(line[3]);
    info->bus_type = BUS_USB;
    return info;
}

API void hid_free_enumeration(struct hid_device_info *info) {
    while (info) {
        struct hid_device_info *next = info->next;
        free(info->path);
        free(info->serial_number);
        free(info->manufacturer_string);
        free(info->product_string);
        free(info);
        info = next;
    }
}

static struct hid_device_info **list_folder(const char *folder, struct hid_device_info **last) {
    char path[PATH_MAX + 256];
    struct dirent **entries;
    int count = scandir(folder, &entries, is_device, versionsort);
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
        free(entries[i]);
        *last = describe(path);
        if (*last)
            last = &(*last)->next;
    }
    if (count >= 0)
        free(entries);
    return last;
}

API struct hid_device_info *hid_enumerate(unsigned short vendor, unsigned short product) {
    struct hid_device_info *first = NULL, **last = &first;
    for (unsigned i = 0; i < COPIES && i < hid_stub_copies; i++)
        last = list_folder(hid_stub_folders[i], last);
    for (last = &first; *last;) {
        struct hid_device_info *info = *last;
        if ((vendor && vendor != info->vendor_id) || (product && product != info->product_id)) {
            *last = info->next;
            info->next = NULL;
            hid_free_enumeration(info);
        } else {
            last = &info->next;
        }
    }
    return first;
}

/* Opening. */

/* Through /proc, because a socket's own path may hold 107 bytes only. */
static int dial(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char where[PATH_MAX];
    snprintf(where, sizeof where, "%s", path);
    char *slash = strrchr(where, '/');
    if (!slash)
        return errno = ENOENT, -1;
    *slash = 0;
    int at = open(where, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (at < 0)
        return -1;
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%.40s.sock", at,
             slash + 1);
    int dialled = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (dialled >= 0 && connect(dialled, (struct sockaddr *)&address, sizeof address)) {
        int number = errno;
        close(dialled);
        errno = number;
        dialled = -1;
    }
    int number = errno;
    close(at);
    errno = number;
    return dialled;
}

API hid_device *hid_open_path(const char *path) {
    struct stat status;
    if (stat(path, &status)) {
        fail_with(errno);
        return NULL;
    }
    if (!(status.st_mode & READABLE) || access(path, R_OK | W_OK)) {
        fail_with(EACCES);
        return NULL;
    }
    int dialled = dial(path);
    if (dialled < 0) {
        fail_with(errno == ECONNREFUSED ? ENODEV : errno);
        return NULL;
    }
    hid_device *device = calloc(1, sizeof *device);
    device->socket = dialled;
    device->info = describe(path);
    return device;
}

API hid_device *hid_open(unsigned short vendor, unsigned short product, const wchar_t *serial) {
    struct hid_device_info *all = hid_enumerate(vendor, product), *info = all;
    while (info && serial && wcscmp(serial, info->serial_number))
        info = info->next;
    hid_device *device = info ? hid_open_path(info->path) : NULL;
    hid_free_enumeration(all);
    return device;
}

API void hid_close(hid_device *device) {
    if (!device)
        return;
    close(device->socket);
    hid_free_enumeration(device->info);
    free(device);
}

/* Reading and writing. */

static void receive(hid_device *device) {
    struct report report;
    while (!device->unplugged) {
        ssize_t size = recv(device->socket, report.bytes, MAX_REPORT, MSG_DONTWAIT);
        if (size < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (size <= 0) {
            device->unplugged = 1;
            return;
        }
        unsigned next = (device->head + 1) % SLOTS;
        if (next == device->tail)
            continue; /* Full: the newest is lost. */
        report.size = (int)size;
        device->kept[device->head] = report;
        device->head = next;
    }
}

API int hid_read_timeout(hid_device *device, unsigned char *data, size_t size, int timeout_ms) {
    receive(device);
    if (device->head == device->tail && !device->unplugged && timeout_ms != 0) {
        struct pollfd wait = {.fd = device->socket, .events = POLLIN};
        poll(&wait, 1, timeout_ms);
        receive(device);
    }
    if (device->unplugged && (timeout_ms >= 0 || device->head == device->tail))
        return -1;
    if (device->head == device->tail)
        return 0;
    struct report *report = &device->kept[device->tail];
    device->tail = (device->tail + 1) % SLOTS;
    size_t count = (size_t)report->size < size ? (size_t)report->size : size;
    if (data)
        memcpy(data, report->bytes, count);
    return (int)count;
}

API int hid_read(hid_device *device, unsigned char *data, size_t size) {
    return hid_read_timeout(device, data, size, device->nonblocking ? 0 : -1);
}

API int hid_set_nonblocking(hid_device *device, int nonblocking) {
    device->nonblocking = nonblocking;
    return 0;
}

API int hid_write(hid_device *device, const unsigned char *data, size_t size) {
    return send(device->socket, data, size, MSG_NOSIGNAL) < 0 ? -1 : (int)size;
}

/* These devices have no feature reports. */
API int hid_send_feature_report(hid_device *device, const unsigned char *data, size_t size) {
    (void)device, (void)data, (void)size;
    return -1;
}

API int hid_get_feature_report(hid_device *device, unsigned char *data, size_t size) {
    (void)device, (void)data, (void)size;
    return -1;
}

/* Words. */

static int say(const wchar_t *text, wchar_t *into, size_t size) {
    if (!text || !size)
        return -1;
    swprintf(into, size, L"%ls", text);
    return 0;
}

API int hid_get_manufacturer_string(hid_device *device, wchar_t *into, size_t size) {
    return say(device->info ? device->info->manufacturer_string : NULL, into, size);
}

API int hid_get_product_string(hid_device *device, wchar_t *into, size_t size) {
    return say(device->info ? device->info->product_string : NULL, into, size);
}

API int hid_get_serial_number_string(hid_device *device, wchar_t *into, size_t size) {
    return say(device->info ? device->info->serial_number : NULL, into, size);
}

API int hid_get_indexed_string(hid_device *device, int index, wchar_t *into, size_t size) {
    (void)device, (void)index, (void)into, (void)size;
    return -1;
}

API const wchar_t *hid_error(hid_device *device) {
    (void)device;
    return last_error;
}
