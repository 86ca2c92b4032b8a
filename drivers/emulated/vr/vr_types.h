/* OpenVR's structures, checked against the installed package, and the arithmetic of its matrices:
 * row-major, rotation and in the last column position in metres. */
#include <math.h>

typedef struct { float m[3][4]; } matrix34_t;
typedef struct { float m[4][4]; } matrix44_t;
typedef struct {
    matrix34_t device_to_tracking;
    float velocity[3], angular_velocity[3];
    int32_t result;
    uint8_t valid, connected;
} pose_t;
#pragma pack(push, 4) /* as Valve's headers do on Linux */
typedef struct { uint32_t packet; uint64_t pressed, touched; float axis[5][2]; } controller_t;
typedef struct { uint32_t type, device; float age_s; uint8_t data[EVENT_DATA_SIZE]; } event_t;
#pragma pack(pop)

#define SAME(ours, field, theirs, their_field) \
    _Static_assert(offsetof(ours, field) == OFFSET_##theirs##_##their_field, #theirs)
_Static_assert(sizeof(pose_t) == SIZE_TrackedDevicePose_t, "pose");
SAME(pose_t, velocity, TrackedDevicePose_t, vVelocity);
SAME(pose_t, angular_velocity, TrackedDevicePose_t, vAngularVelocity);
SAME(pose_t, result, TrackedDevicePose_t, eTrackingResult);
SAME(pose_t, valid, TrackedDevicePose_t, bPoseIsValid);
SAME(pose_t, connected, TrackedDevicePose_t, bDeviceIsConnected);
_Static_assert(sizeof(controller_t) == SIZE_VRControllerState_t, "controller state");
SAME(controller_t, pressed, VRControllerState_t, ulButtonPressed);
SAME(controller_t, touched, VRControllerState_t, ulButtonTouched);
SAME(controller_t, axis, VRControllerState_t, rAxis);
_Static_assert(sizeof(event_t) == SIZE_VREvent_t, "event");
SAME(event_t, data, VREvent_t, data);

static matrix34_t product(const matrix34_t *a, const matrix34_t *b) {
    matrix34_t o;
    for (int r = 0; r < 3; r++)
        for (int c = 0; c < 4; c++)
            o.m[r][c] = a->m[r][0] * b->m[0][c] + a->m[r][1] * b->m[1][c] +
                        a->m[r][2] * b->m[2][c] + (c == 3 ? a->m[r][3] : 0);
    return o;
}
static matrix34_t inverse(const float a[3][4]) {
    matrix34_t o;
    for (int r = 0; r < 3; r++) {
        for (int c = 0; c < 3; c++) o.m[r][c] = a[c][r];
        o.m[r][3] = -(a[0][r] * a[0][3] + a[1][r] * a[1][3] + a[2][r] * a[2][3]);
    }
    return o;
}
static matrix34_t turned(const float vector[3]) { /* rotation about a vector by its length */
    matrix34_t o = {{{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}}};
    float angle = sqrtf(vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2]);
    if (angle < 1e-9f) return o;
    float x = vector[0] / angle, y = vector[1] / angle, z = vector[2] / angle;
    float c = cosf(angle), s = sinf(angle), k = 1 - c;
    matrix34_t turn = {{{c + x * x * k, x * y * k - z * s, x * z * k + y * s, 0},
                        {y * x * k + z * s, c + y * y * k, y * z * k - x * s, 0},
                        {z * x * k - y * s, z * y * k + x * s, c + z * z * k, 0}}};
    return turn;
}
