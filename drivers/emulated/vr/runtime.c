/* An OpenVR runtime without SteamVR: what libopenvr_api loads as <runtime>/bin/linux64/vrclient.so.
 *
 * openvr_abi.h is generated from the installed openvr package (see abi.py): slot numbers,
 * structure sizes and offsets, values of enums (VR_ and its name), tables of their names, and the
 * layout of the state file. All state lies in <runtime>/state.bin, which the stand-in writes and
 * every client process maps; only the place in the event queue is a client's own.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "openvr_abi.h"
#include "vr_types.h"

#define ATOMIC(word) ((_Atomic uint32_t *)&(word))

/* A function of IVRSystem or of IVRCompositor, by the name of its slot. */
#define SYSTEM(type, slot) static type System_##slot
#define COMPOSITOR(type, slot) static type Compositor_##slot

static state_t *state;
static uint32_t event_cursor;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int attach(void) {
    Dl_info me;
    char path[4096];
    if (state) return 1;
    if (!dladdr((void *)&attach, &me)) return 0;
    snprintf(path, sizeof path, "%s", me.dli_fname); /* <runtime>/bin/linux64/vrclient.so */
    snprintf(strrchr(path, '/'), sizeof "/../../state.bin", "/../../state.bin");
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return 0;
    void *map = mmap(0, sizeof(state_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED) return 0;
    state = map;
    return 1;
}

/* The newest record of a device. Two take turns, so a writer that is interrupted holds up nobody:
 * the parity of `turn` tells which one is complete, and it is copied again if turned meanwhile. */
static device_t look(uint32_t index) {
    device_t device;
    slot_t *slot = &state->devices[index];
    uint32_t before, after = atomic_load_explicit(ATOMIC(slot->turn), memory_order_acquire);
    do {
        before = after;
        memcpy(&device, &slot->record[before & 1], sizeof device);
        atomic_thread_fence(memory_order_acquire);
        after = atomic_load_explicit(ATOMIC(slot->turn), memory_order_relaxed);
    } while (after != before);
    return device;
}
static int exists(uint32_t i) { return i < DEVICES && look(i).device_class != 0; }

/* Poses. The file holds them in the standing universe. */
static pose_t pose_of(int universe, float ahead_s, const device_t *d) {
    pose_t o = {.result = VR_TrackingResult_Uninitialized};
    if (!d->device_class || !d->connected) return o;
    o.result = d->result, o.valid = d->valid, o.connected = 1;
    memcpy(o.velocity, d->velocity, sizeof o.velocity);
    memcpy(o.angular_velocity, d->angular_velocity, sizeof o.angular_velocity);
    matrix34_t m;
    memcpy(&m, d->matrix, sizeof m);
    if (ahead_s != 0) { /* predicted as if both velocities stayed */
        float vector[3], place[3];
        for (int r = 0; r < 3; r++) {
            vector[r] = d->angular_velocity[r] * ahead_s;
            place[r] = m.m[r][3] + d->velocity[r] * ahead_s;
            m.m[r][3] = 0;
        }
        matrix34_t turn = turned(vector);
        m = product(&turn, &m);
        for (int r = 0; r < 3; r++) m.m[r][3] = place[r];
    }
    if (universe != VR_TrackingUniverseStanding) {
        matrix34_t back = inverse(universe == VR_TrackingUniverseSeated ? state->seated_to_standing
                                                                        : state->raw_to_standing);
        m = product(&back, &m);
    }
    o.device_to_tracking = m;
    return o;
}
SYSTEM(void, getDeviceToAbsoluteTrackingPose)(int universe, float ahead_s, pose_t *out,
        uint32_t n) {
    for (uint32_t i = 0; i < n && i < DEVICES; i++) {
        device_t d = look(i);
        out[i] = pose_of(universe, ahead_s, &d);
    }
}
static matrix34_t as_matrix(const float from[3][4]) {
    matrix34_t o;
    memcpy(&o, from, sizeof o);
    return o;
}
SYSTEM(matrix34_t, getSeatedZeroPoseToStandingAbsoluteTrackingPose)(void) {
    return as_matrix(state->seated_to_standing);
}
SYSTEM(matrix34_t, getRawZeroPoseToStandingAbsoluteTrackingPose)(void) {
    return as_matrix(state->raw_to_standing);
}
SYSTEM(void, applyTransform)(pose_t *out, const pose_t *pose, const matrix34_t *by) {
    pose_t o = *pose;
    o.device_to_tracking = product(by, &pose->device_to_tracking);
    for (int r = 0; r < 3; r++) {
        o.velocity[r] = o.angular_velocity[r] = 0;
        for (int c = 0; c < 3; c++) {
            o.velocity[r] += by->m[r][c] * pose->velocity[c];
            o.angular_velocity[r] += by->m[r][c] * pose->angular_velocity[c];
        }
    }
    *out = o;
}

/* Devices */
SYSTEM(uint32_t, getSortedTrackedDeviceIndicesOfClass)(int device_class, uint32_t *out, uint32_t n,
        uint32_t relative_to) {
    uint32_t found = 0; /* by index: good enough without a head to be right or left of */
    (void)relative_to;
    for (uint32_t i = 0; i < DEVICES; i++) {
        device_t d = look(i);
        if (d.device_class != device_class || !d.connected) continue;
        if (out && found < n) out[found] = i;
        found++;
    }
    return found;
}
SYSTEM(int, getTrackedDeviceActivityLevel)(uint32_t i) {
    return exists(i) ? look(i).activity : (int)VR_k_EDeviceActivityLevel_Unknown;
}
SYSTEM(uint32_t, getTrackedDeviceIndexForControllerRole)(int role) {
    for (uint32_t i = 0; i < DEVICES; i++) {
        device_t d = look(i);
        if (d.device_class == VR_TrackedDeviceClass_Controller && d.role == role && d.connected)
            return i;
    }
    return VR_k_unTrackedDeviceIndexInvalid;
}
SYSTEM(int, getControllerRoleForTrackedDeviceIndex)(uint32_t i) {
    return exists(i) ? look(i).role : 0;
}
SYSTEM(int, getTrackedDeviceClass)(uint32_t i) { return i < DEVICES ? look(i).device_class : 0; }
SYSTEM(uint8_t, isTrackedDeviceConnected)(uint32_t i) { return exists(i) && look(i).connected; }

/* Properties. A known one asked for as another type is WrongDataType. */
static int wrong(uint32_t i, int property) {
    if (!exists(i)) return VR_TrackedProp_InvalidDevice;
    switch (property) {
    case VR_Prop_TrackingSystemName_String: case VR_Prop_ModelNumber_String:
    case VR_Prop_SerialNumber_String: case VR_Prop_ManufacturerName_String:
    case VR_Prop_RenderModelName_String: case VR_Prop_ControllerType_String:
    case VR_Prop_DeviceBatteryPercentage_Float: case VR_Prop_DeviceProvidesBatteryStatus_Bool:
    case VR_Prop_DeviceIsCharging_Bool: case VR_Prop_DeviceIsWireless_Bool:
    case VR_Prop_DeviceClass_Int32: case VR_Prop_ControllerRoleHint_Int32:
    case VR_Prop_CurrentUniverseId_Uint64:
        return VR_TrackedProp_WrongDataType;
    }
    return VR_TrackedProp_UnknownProperty;
}
static void tell(int *error, int value) { if (error) *error = value; }
SYSTEM(uint32_t, getStringTrackedDeviceProperty)(uint32_t i, int property, char *buffer,
        uint32_t n, int *error) {
    const char *text = 0;
    device_t d = {0};
    if (i < DEVICES) d = look(i);
    if (d.device_class) switch (property) {
        case VR_Prop_TrackingSystemName_String: text = d.tracking_system; break;
        case VR_Prop_ModelNumber_String: text = d.model; break;
        case VR_Prop_SerialNumber_String: text = d.serial; break;
        case VR_Prop_ManufacturerName_String: text = d.manufacturer; break;
        case VR_Prop_RenderModelName_String: text = d.render_model; break;
        case VR_Prop_ControllerType_String: text = d.controller_type; break;
    }
    if (!text) { tell(error, wrong(i, property)); return 0; }
    uint32_t need = (uint32_t)strlen(text) + 1;
    tell(error, n < need || !buffer ? VR_TrackedProp_BufferTooSmall : VR_TrackedProp_Success);
    if (buffer && n >= need) memcpy(buffer, text, need);
    return need;
}
SYSTEM(float, getFloatTrackedDeviceProperty)(uint32_t i, int property, int *error) {
    if (!exists(i) || property != VR_Prop_DeviceBatteryPercentage_Float)
        return tell(error, wrong(i, property)), 0;
    device_t d = look(i);
    tell(error, d.has_battery ? VR_TrackedProp_Success : VR_TrackedProp_ValueNotProvidedByDevice);
    return d.has_battery ? d.battery : 0;
}
SYSTEM(uint8_t, getBoolTrackedDeviceProperty)(uint32_t i, int property, int *error) {
    device_t d = {0};
    if (i < DEVICES) d = look(i);
    tell(error, VR_TrackedProp_Success);
    if (d.device_class) switch (property) {
        case VR_Prop_DeviceProvidesBatteryStatus_Bool: case VR_Prop_DeviceIsWireless_Bool:
            return d.has_battery;
        case VR_Prop_DeviceIsCharging_Bool: return d.charging;
    }
    return tell(error, wrong(i, property)), 0;
}
SYSTEM(int32_t, getInt32TrackedDeviceProperty)(uint32_t i, int property, int *error) {
    tell(error, VR_TrackedProp_Success);
    if (exists(i) && property == VR_Prop_DeviceClass_Int32) return look(i).device_class;
    if (exists(i) && property == VR_Prop_ControllerRoleHint_Int32) return look(i).role;
    return tell(error, wrong(i, property)), 0;
}
SYSTEM(uint64_t, getUint64TrackedDeviceProperty)(uint32_t i, int property, int *error) {
    tell(error, VR_TrackedProp_Success);
    if (exists(i) && property == VR_Prop_CurrentUniverseId_Uint64) return 1;
    return tell(error, wrong(i, property)), 0;
}
SYSTEM(matrix34_t, getMatrix34TrackedDeviceProperty)(uint32_t i, int property, int *error) {
    static const float none[3] = {0};
    tell(error, wrong(i, property));
    return turned(none);
}
SYSTEM(uint32_t, getArrayTrackedDeviceProperty)(uint32_t i, int property, uint32_t tag,
        void *buffer, uint32_t n, int *error) {
    (void)tag, (void)buffer, (void)n;
    tell(error, wrong(i, property));
    return 0;
}

/* Events, buttons, haptics */
SYSTEM(uint8_t, pollNextEventWithPose)(int universe, void *out, uint32_t size, pose_t *pose) {
    uint32_t head = atomic_load(ATOMIC(state->event_head));
    if (head - event_cursor > EVENTS) event_cursor = head - EVENTS; /* the oldest are lost */
    if (event_cursor == head) return 0;
    queued_t *queued = &state->events[event_cursor++ % EVENTS];
    float age_s = (float)(now_ns() - queued->stamp_ns) * 1e-9f;
    event_t event = {queued->type, queued->device, age_s, {0}};
    memcpy(event.data, queued->data, sizeof event.data);
    memcpy(out, &event, size < sizeof event ? size : sizeof event);
    if (pose && event.device < DEVICES) {
        device_t d = look(event.device);
        *pose = pose_of(universe, 0, &d);
    }
    return 1;
}
SYSTEM(uint8_t, pollNextEvent)(void *out, uint32_t size) {
    return System_pollNextEventWithPose(0, out, size, 0);
}
SYSTEM(uint8_t, pollNextEventWithPoseAndOverlays)(int universe, void *out, uint32_t size,
        pose_t *pose, uint64_t *o) {
    if (o) *o = 0;
    return System_pollNextEventWithPose(universe, out, size, pose);
}
SYSTEM(uint8_t, getControllerStateWithPose)(int universe, uint32_t i, void *out, uint32_t size,
        pose_t *p) {
    device_t d = {0};
    if (i < DEVICES) d = look(i);
    int has_buttons = d.device_class == VR_TrackedDeviceClass_Controller ||
                      d.device_class == VR_TrackedDeviceClass_GenericTracker;
    if (!has_buttons || !d.connected || size != sizeof(controller_t)) return 0;
    controller_t now = {.packet = d.packet, .pressed = d.pressed, .touched = d.touched};
    memcpy(now.axis, d.axis, sizeof now.axis);
    memcpy(out, &now, sizeof now);
    if (p) *p = pose_of(universe, 0, &d);
    return 1;
}
SYSTEM(uint8_t, getControllerState)(uint32_t i, void *out, uint32_t size) {
    return System_getControllerStateWithPose(0, i, out, size, 0);
}
SYSTEM(void, triggerHapticPulse)(uint32_t i, uint32_t axis, unsigned short duration_us) {
    uint32_t n = atomic_fetch_add(ATOMIC(state->haptic_head), 1);
    state->haptics[n % HAPTICS] = (haptic_t){i, axis, duration_us, 0, now_ns()};
}
SYSTEM(void, acknowledgeQuit_Exiting)(void) { state->acknowledged_ns = now_ns(); }

/* The display of a headset that does not exist */
SYSTEM(void, getRecommendedRenderTargetSize)(uint32_t *w, uint32_t *h) { *w = 1280, *h = 720; }
SYSTEM(matrix44_t, getProjectionMatrix)(int eye, float near, float far) {
    (void)eye;
    matrix44_t o = {{{1, 0, 0, 0}, {0, 1, 0, 0},
                     {0, 0, -far / (far - near), -far * near / (far - near)}, {0, 0, -1, 0}}};
    return o;
}
SYSTEM(void, getProjectionRaw)(int eye, float *left, float *right, float *top, float *bottom) {
    (void)eye;
    *left = *top = -1, *right = *bottom = 1;
}
SYSTEM(matrix34_t, getEyeToHeadTransform)(int eye) {
    matrix34_t o = {{{1, 0, 0, eye ? 0.0315f : -0.0315f}, {0, 1, 0, 0}, {0, 0, 1, 0}}};
    return o;
}
SYSTEM(uint8_t, getTimeSinceLastVsync)(float *seconds, uint64_t *frame) {
    *seconds = 0, *frame = 0;
    return 0;
}

SYSTEM(uint8_t, isDisplayOnDesktop)(void) { return 0; }
SYSTEM(uint8_t, isSteamVRDrawingControllers)(void) { return 0; }
SYSTEM(uint8_t, shouldApplicationPause)(void) { return 0; }
SYSTEM(uint8_t, shouldApplicationReduceRenderingWork)(void) { return 0; }
SYSTEM(uint8_t, isInputAvailable)(void) { return state->input_available != 0; }
SYSTEM(const char *, getRuntimeVersion)(void) { return "0.0.0 (emulated)"; }
SYSTEM(const char *, getPropErrorNameFromEnum)(int e) { return name_of(names_TrackedProp, e); }
SYSTEM(const char *, getEventTypeNameFromEnum)(int e) { return name_of(names_VREvent, e); }
SYSTEM(const char *, getButtonIdNameFromEnum)(int b) { return name_of(names_k_EButton, b); }
SYSTEM(const char *, getControllerAxisTypeNameFromEnum)(int t) {
    return name_of(names_k_eControllerAxis, t);
}

/* Of the compositor, what programs without pictures use: poses in step with a display. */
COMPOSITOR(int, getLastPoses)(pose_t *render, uint32_t n, pose_t *game, uint32_t m) {
    System_getDeviceToAbsoluteTrackingPose(VR_TrackingUniverseStanding, 0, render, n);
    System_getDeviceToAbsoluteTrackingPose(VR_TrackingUniverseStanding, 0, game, m);
    return 0;
}
COMPOSITOR(int, waitGetPoses)(pose_t *render, uint32_t n, pose_t *game, uint32_t m) {
    const long period_ns = 1000000000 / 90;
    struct timespec rest = {0, period_ns - now_ns() % period_ns};
    nanosleep(&rest, 0);
    return Compositor_getLastPoses(render, n, game, m);
}

/* The header has a table for each interface, with the functions above in their slots. The other
 * slots count their calls and return 0. */
static intptr_t unlisted(const char *name) {
    snprintf(state->unlisted_name, sizeof state->unlisted_name, "%s", name);
    atomic_fetch_add(ATOMIC(state->unlisted_calls), 1);
    return 0;
}
INTERFACES

/* IVRClientCore_003, a C++ object: a pointer to its vtable, `this` the first argument. */
static int core_init(void *this, int application, const char *info) {
    (void)this, (void)info;
    if (!attach()) {
        int background = application == VR_VRApplication_Background;
        return background ? VR_VRInitError_Init_NoServerForBackgroundApp
                          : VR_VRInitError_IPC_ConnectFailed;
    }
    state->application = application;
    atomic_fetch_add(ATOMIC(state->attempts), 1);
    if (state->init_error) return state->init_error;
    event_cursor = atomic_load(ATOMIC(state->event_head));
    atomic_fetch_add(ATOMIC(state->inits), 1);
    return 0;
}
static void core_cleanup(void *this) {
    (void)this;
    if (!state) return;
    atomic_fetch_add(ATOMIC(state->cleanups), 1);
    munmap(state, sizeof *state);
    state = 0;
}
static int core_valid(void *this, const char *name) {
    (void)this;
    for (const interface_t *i = interfaces; i->version; i++)
        if (!strcmp(name, i->version)) return 0;
    return VR_VRInitError_Init_InterfaceNotFound;
}
static void *core_interface(void *this, const char *name, int *error) {
    (void)this;
    const size_t prefix = sizeof "FnTable:" - 1;
    for (const interface_t *i = interfaces; i->version && strlen(name) > prefix; i++)
        if (!strcmp(name + prefix, i->version)) return tell(error, 0), (void *)i->slots;
    tell(error, VR_VRInitError_Init_InterfaceNotFound);
    return 0;
}
static uint8_t core_hmd(void *this) { (void)this; return attach() && state->hmd_present; }
static const char *core_error(void *this, int e) {
    (void)this;
    return name_of(names_VRInitError, e);
}

static void *core_vtable[] = {core_init, core_cleanup, core_valid, core_interface, core_hmd,
                              core_error, core_error};
static struct { void **vtable; } core = {core_vtable};

__attribute__((visibility("default"))) void *VRClientCoreFactory(const char *name, int *error) {
    int found = !strcmp(name, "IVRClientCore_003");
    tell(error, found ? 0 : VR_VRInitError_Init_InterfaceNotFound);
    return found ? &core : 0;
}
